/**
 * Fields of answers. The schemas of this folder and of `sandbox/contract/schema` define the whole REST interface: they
 * check requests and generate `spec/openapi.json`, against which `src/api/client` checks answers.
 *
 * Requests are strict: an unknown field is an error that names it. Answers may grow: a client drops unknown fields. The
 * types of answers are the control plane's, so a field added there does not compile until it is added here.
 */
import { z } from 'zod';
import type { SharedBudget } from '../../../base/request/model-limits.ts';
import type { ModelUseInfo } from '../../../sandbox/contract/control.ts';
import { windowedBudget } from '../../../sandbox/contract/schema/models.ts';

export const count = z.number().int().nonnegative();
export const ms = z.number();
export const wallMs = z.number().describe('Milliseconds since 1970.');
export const sandboxId = z
  .string()
  .regex(/^[a-z0-9]{20}$/, { error: 'expected 20 characters of a-z and 0-9' })
  .describe('Id of a sandbox.');
export const status = z
  .enum(['starting', 'running', 'saving', 'paused', 'resuming', 'ending', 'ended'])
  .meta({
    id: 'SandboxStatus',
    description: '`saving`: the state is being written; then the sandbox continues or is paused.',
  });
export const pausedTo = z.enum(['memory', 'disk', 'disk-only']).meta({ id: 'PauseTarget' });
export const pauseReason = z
  .enum(['timeout', 'idle', 'host-memory'])
  .meta({ id: 'PauseReason', description: '`host-memory`: the memory of the host was short.' });
const budgetUse = z
  .object({
    inputTokens: count,
    outputTokens: count,
    requests: count,
    costNanoDollars: count.describe('Billionths of a dollar.'),
    window: count.describe('Number of the window since 1970; 0: the whole life.'),
    windowMs: count.optional().describe('Length of the window; absent: the whole life.'),
  })
  .meta({ id: 'ModelBudgetUse' });
export const modelUse: z.ZodType<ModelUseInfo> = z
  .object({
    account: z.string().describe('The sandbox whose budget it is: of a fork, that of the first original.'),
    used: budgetUse
      .nullable()
      .describe('By all that share the budget, in the window of the last use; null: nothing yet.'),
  })
  .meta({ id: 'SandboxModelUse', description: 'Use of `models.budget`.' });
export const sharedBudget: z.ZodType<SharedBudget> = z
  .object({
    tenant: z.string().nullable().describe('Whose sandboxes share it; null: all sandboxes of the host.'),
    limits: windowedBudget,
    used: budgetUse.nullable().describe('In the window of the last use; null: nothing yet.'),
  })
  .meta({ id: 'SharedModelBudget', description: 'A budget that sandboxes share.' });
