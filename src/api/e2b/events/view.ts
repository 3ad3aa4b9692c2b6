/** Events and webhooks as E2B's clients see them. */
import { z } from 'zod';
import { list } from '../../../sandbox/contract/schema/values.ts';
import { EVENT_TYPES, type StoredEvent, type Webhook } from './journal.ts';
import { EVENT_LIMITS } from './limits.ts';

const VERSION = 'v2';
const OPERATOR = 'operator';

export const eventType = z.enum(EVENT_TYPES);

export const sandboxEvent = z.object({
  version: z.string(),
  id: z.string(),
  type: eventType,
  eventData: z.record(z.string(), z.unknown()).nullable(),
  sandboxBuildId: z.string().describe('The name of the template.'),
  sandboxExecutionId: z.string().describe('The same from a start or resume to the next pause or end.'),
  sandboxId: z.string(),
  sandboxTeamId: z.string().describe('The tenant, or `operator`.'),
  sandboxTemplateId: z.string(),
  timestamp: z.string(),
});

export function eventView(event: StoredEvent): z.input<typeof sandboxEvent> {
  return {
    version: VERSION,
    id: event.id,
    type: event.type,
    eventData: event.data,
    sandboxBuildId: event.template,
    sandboxExecutionId: event.execution,
    sandboxId: event.sandboxId,
    sandboxTeamId: event.tenant ?? OPERATOR,
    sandboxTemplateId: event.template,
    timestamp: new Date(event.atMs).toISOString(),
  };
}

/** In both spellings: E2B's documentation uses one, its deliveries the other. */
export function webhookBody(event: StoredEvent): string {
  const view = eventView(event);
  return JSON.stringify({
    ...view,
    event_category: 'lifecycle',
    event_label: event.type.replace(/^.*\./, ''),
    event_data: view.eventData,
    sandbox_build_id: view.sandboxBuildId,
    sandbox_execution_id: view.sandboxExecutionId,
    sandbox_id: view.sandboxId,
    sandbox_team_id: view.sandboxTeamId,
    sandbox_template_id: view.sandboxTemplateId,
  });
}

const fields = {
  name: z.string().min(1).max(EVENT_LIMITS.nameCharactersMax),
  url: z
    .string()
    .max(EVENT_LIMITS.urlCharactersMax)
    .refine((text) => /^https?:\/\//i.test(text) && URL.canParse(text), 'not an http or https URL'),
  enabled: z.boolean(),
  events: list(eventType, EVENT_TYPES.length).min(1),
  signatureSecret: z.string().min(1).max(EVENT_LIMITS.secretCharactersMax),
};
export const newWebhook = z.object({ ...fields, enabled: fields.enabled.default(true) });
export const webhookChange = z.object(fields).partial();

export const webhookAnswer = z.object({
  id: z.string(),
  teamId: z.string(),
  teamID: z.string(),
  name: z.string(),
  createdAt: z.string(),
  enabled: z.boolean(),
  url: z.string(),
  events: z.array(eventType),
});

/** Excludes the secret. */
export function webhookView(webhook: Webhook): z.input<typeof webhookAnswer> {
  const { id, tenant, name, createdAtMs, enabled, url, events } = webhook;
  const teamId = tenant ?? OPERATOR;
  const createdAt = new Date(createdAtMs).toISOString();
  return { id, teamId, teamID: teamId, name, createdAt, enabled, url, events };
}
