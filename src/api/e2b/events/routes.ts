/** E2B's routes of events and webhooks. */
import { randomUUID } from 'node:crypto';
import { z } from 'zod';
import type { Clock } from '../../../base/clock.ts';
import { list } from '../../../sandbox/contract/schema/values.ts';
import type { App } from '../../rest/route.ts';
import { E2bError } from '../errors.ts';
import { integerText } from '../integer-text.ts';
import { E2B_LIMITS } from '../limits.ts';
import type { EventJournal, Webhook } from './journal.ts';
import { EVENT_LIMITS } from './limits.ts';
import { eventType, eventView, newWebhook, sandboxEvent, webhookAnswer, webhookChange, webhookView } from './view.ts';
import type { Webhooks } from './webhooks.ts';

export interface Events {
  readonly journal: EventJournal;
  readonly webhooks: Webhooks;
}

export interface WithEvents {
  /** If undefined, the routes are unknown. */
  readonly events?: Events | undefined;
}

const query = z.object({
  offset: integerText(0, Number.MAX_SAFE_INTEGER).default(0),
  limit: integerText(1, EVENT_LIMITS.pageMax).default(EVENT_LIMITS.pageDefault),
  orderAsc: z.enum(['true', 'false']).default('false'),
  types: z.union([eventType, list(eventType, EVENT_LIMITS.pageMax)]).optional(),
});
const sandboxParams = z.object({ sandboxID: z.string().max(E2B_LIMITS.idCharactersMax) });
const webhookParams = z.object({ webhookID: z.string().max(E2B_LIMITS.idCharactersMax) });
const tags = ['events'];

/** @param tenant null: the operator, who sees the events of all */
export function addEventRoutes(app: App, events: Events, tenant: string | null, clock: Clock): void {
  addEventLists(app, events, tenant);
  addWebhooksRoutes(app, events, tenant, clock);
  addWebhookRoutes(app, events, tenant);
}

function addEventLists(app: App, { journal }: Events, tenant: string | null): void {
  const page = (asked: z.infer<typeof query>, sandboxId?: string) =>
    journal
      .list({
        tenant,
        sandboxId,
        types: asked.types === undefined ? undefined : [asked.types].flat(),
        offset: asked.offset,
        limit: asked.limit,
        isAscending: asked.orderAsc === 'true',
      })
      .map(eventView);
  app.get(
    '/events/sandboxes',
    {
      schema: {
        tags,
        operationId: 'listEvents',
        description: 'What happened to sandboxes.',
        querystring: query,
        response: { 200: z.array(sandboxEvent) },
      },
    },
    async (request) => page(request.query),
  );
  app.get(
    '/events/sandboxes/:sandboxID',
    {
      schema: {
        tags,
        operationId: 'listSandboxEvents',
        description: 'What happened to one sandbox.',
        params: sandboxParams,
        querystring: query,
        response: { 200: z.array(sandboxEvent) },
      },
    },
    async (request) => page(request.query, request.params.sandboxID),
  );
}

function addWebhooksRoutes(app: App, { journal, webhooks }: Events, tenant: string | null, clock: Clock): void {
  app.get(
    '/events/webhooks',
    {
      schema: {
        tags,
        operationId: 'listWebhooks',
        description: 'Without their secrets.',
        response: { 200: z.array(webhookAnswer) },
      },
    },
    async () => journal.webhooks(tenant).map(webhookView),
  );
  app.post(
    '/events/webhooks',
    {
      schema: {
        tags,
        operationId: 'createWebhook',
        description: 'It gets what happens from now on.',
        body: newWebhook,
        response: { 201: webhookAnswer },
      },
    },
    async ({ body }, reply) => {
      if (journal.webhooks(tenant).length >= EVENT_LIMITS.webhooksMax) {
        throw new E2bError(400, `there are ${EVENT_LIMITS.webhooksMax} webhooks, the maximum`, {
          remedy: 'delete one',
        });
      }
      const { signatureSecret: secret, ...rest } = body;
      const webhook = { ...rest, id: randomUUID(), tenant, secret, createdAtMs: clock.wall() };
      journal.saveWebhook(webhook, true);
      webhooks.start(webhook);
      return await reply.status(201).send(webhookView(webhook));
    },
  );
}

function addWebhookRoutes(app: App, { journal, webhooks }: Events, tenant: string | null): void {
  const find = (id: string): Webhook => {
    const found = journal.webhooks(tenant).find((one) => one.id === id);
    if (found === undefined) throw new E2bError(404, `there is no webhook ${JSON.stringify(id)}`);
    return found;
  };
  app.get(
    '/events/webhooks/:webhookID',
    {
      schema: {
        tags,
        operationId: 'getWebhook',
        description: 'Without its secret.',
        params: webhookParams,
        response: { 200: webhookAnswer },
      },
    },
    async ({ params }) => webhookView(find(params.webhookID)),
  );
  app.patch(
    '/events/webhooks/:webhookID',
    {
      schema: {
        tags,
        operationId: 'updateWebhook',
        description: 'Fields that are absent stay.',
        params: webhookParams,
        body: webhookChange,
        response: { 200: webhookAnswer },
      },
    },
    async ({ params, body }) => {
      const before = find(params.webhookID);
      const { signatureSecret, ...changes } = body;
      const given = Object.entries(changes).filter(([, value]) => value !== undefined);
      const webhook: Webhook = { ...before, ...Object.fromEntries(given), secret: signatureSecret ?? before.secret };
      journal.saveWebhook(webhook, webhook.enabled && !before.enabled);
      webhooks.start(webhook);
      return webhookView(webhook);
    },
  );
  app.delete(
    '/events/webhooks/:webhookID',
    {
      schema: {
        tags,
        operationId: 'deleteWebhook',
        description: 'Nothing more is sent to it.',
        params: webhookParams,
        response: { 200: z.object({}) },
      },
    },
    async ({ params }, reply) => {
      const { id } = find(params.webhookID);
      webhooks.stop(id);
      journal.removeWebhook(id);
      return await reply.status(200).send({});
    },
  );
}
