/**
 * Fields that requests and answers share. The schemas of this folder define the whole REST interface: they check
 * requests and generate `spec/openapi.json`, against which `src/api/client` checks answers.
 *
 * Requests are strict: an unknown field is an error that names it. Answers may grow: a client drops unknown fields. The
 * types are the control plane's, so a field added there does not compile until it is added here.
 */
import { z } from 'zod';
import type { DiskLimits } from '../../../base/request/disk-limits.ts';
import {
  CACHED_REQUESTS,
  MODEL_PRIORITIES,
  type ModelBudget,
  type ModelCache,
  type SharedBudget,
} from '../../../base/request/model-limits.ts';
import { ECOSYSTEMS } from '../../../base/request/package-policy.ts';
import { PLACE_NAME_CHARACTERS_MAX, type SecretPlace } from '../../../base/request/secret-place.ts';
import { isAtMost } from '../../../base/text/characters.ts';
import type { DestinationLimit } from '../../../egress/net/policy/destination-budgets.ts';
import type { MemoryAction, ModelUseInfo } from '../../../sandbox/contract/control.ts';
import {
  RANGES,
  type Range,
  REQUEST_LIMITS,
  SNAPSHOT_NAME,
  SNAPSHOT_REFERENCE,
  TEMPLATE_NAME,
} from '../../../sandbox/contract/limits.ts';
import type { NetworkLimits } from '../../../sandbox/contract/network-spec.ts';

export const count = z.number().int().nonnegative();
export const ms = z.number();
export const wallMs = z.number().describe('Milliseconds since 1970.');
/** Limits characters as JSON Schema counts them: a character beyond the BMP is one, not two. */
export const text = (charactersMax: number) =>
  z
    .string()
    .refine((value) => isAtMost(value, charactersMax), { error: `expected at most ${charactersMax} characters` })
    .meta({ maxLength: charactersMax });
/** A whole number in a range, with one message for every fault, which says what is valid. */
export function whole({ min, max }: Range) {
  const error = `expected a whole number from ${min} to ${max}`;
  return z.number({ error }).int({ error }).min(min, { error }).max(max, { error });
}
export const milliseconds = whole(RANGES.timeoutMs);

export const sandboxId = z
  .string()
  .regex(/^[a-z0-9]{20}$/, { error: 'expected 20 characters of a-z and 0-9' })
  .describe('Id of a sandbox.');
const nameError = 'expected 1 to 63 lower-case letters, digits, ".", "_" or "-", the first a letter or digit';
export const snapshotName = z.string().regex(SNAPSHOT_NAME, { error: nameError }).describe('Name of a snapshot.');
export const snapshotReference = z
  .string()
  .regex(SNAPSHOT_REFERENCE, { error: nameError })
  .describe('Id or name of a snapshot; for the operator, a tenant’s is `TENANT/NAME`.');
export const templateName = z.string().regex(TEMPLATE_NAME, { error: nameError }).describe('Name of a template.');
export const metadata = z
  .record(text(REQUEST_LIMITS.metadataKeyCharactersMax).min(1), text(REQUEST_LIMITS.metadataValueCharactersMax))
  .refine((pairs) => Object.keys(pairs).length <= REQUEST_LIMITS.metadataPairsMax, {
    error: `expected at most ${REQUEST_LIMITS.metadataPairsMax} pairs`,
  })
  .meta({
    id: 'Metadata',
    description: 'Labels of the owner’s choice; the list can be filtered by them.',
    maxProperties: REQUEST_LIMITS.metadataPairsMax,
  });
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
export const packageEcosystem = z.enum(ECOSYSTEMS).meta({ id: 'PackageEcosystem' });
export const onTimeout = z
  .enum(['kill', 'pause', 'pause-disk-only'])
  .meta({ id: 'TimeoutAction', description: '`pause`: to disk. `pause-disk-only`: without the memory.' });
/** The control plane checks it: a schema can't express valid URLs. */
export const onMemoryPressure = z
  .custom<MemoryAction>((value) => typeof value === 'string')
  .meta({
    id: 'MemoryAction',
    type: 'string',
    description:
      'Action when close to OOM (with `memoryMaxMib`: at that maximum): `warn`, `pause` (in memory), ' +
      '`snapshot`, or a URL to post the event to (a private address only if `NEUROVISOR_WEBHOOK_HOSTS` of the ' +
      'daemon names it). `grow`: requires `memoryMaxMib`; at the maximum, as `warn`.',
    examples: ['snapshot'],
  });
export const networkMode = z
  .enum(['none', 'allowlist', 'open'])
  .meta({
    id: 'NetworkMode',
    description:
      '`none`: no traffic. `allowlist`: what a rule allows. `open`: the public internet except what a rule denies.',
  });
const destinationLimit = z
  .strictObject({
    name: z
      .string()
      .min(1)
      .max(REQUEST_LIMITS.destinationCharactersMax)
      .describe('`api.example.com`, or `*.example.com` for all names below it.'),
    bytesMax: whole(RANGES.networkBytes),
  } satisfies Record<keyof DestinationLimit, z.ZodType>)
  .meta({ id: 'DestinationLimit' });
const bytesPerSecond = whole(RANGES.networkBytesPerSecond);
export const networkLimits = z
  .strictObject({
    bytesMax: whole(RANGES.networkBytes)
      .exactOptional()
      .describe('Bytes in both directions over the life of the sandbox. Then connections are reset.'),
    uploadBytesPerSecond: bytesPerSecond.exactOptional().describe('Rate from the guest.'),
    downloadBytesPerSecond: bytesPerSecond.exactOptional().describe('Rate to the guest.'),
    connectionsMax: whole(RANGES.networkConnections)
      .exactOptional()
      .describe('Open connections at a time. Default 2048.'),
    destinations: z
      .array(destinationLimit)
      .max(REQUEST_LIMITS.networkDestinationsMax)
      .exactOptional()
      .describe('Bytes per name at ports 80 and 443, both directions. Then connections are reset.'),
  } satisfies Record<keyof NetworkLimits, z.ZodType>)
  .meta({ id: 'NetworkLimits' });
export const diskLimits = z
  .strictObject({
    bytesPerSecond: whole(RANGES.diskBytesPerSecond).exactOptional().describe('Bytes read and written together.'),
    opsPerSecond: whole(RANGES.diskOpsPerSecond).exactOptional().describe('Reads and writes together.'),
  } satisfies Record<keyof DiskLimits, z.ZodType>)
  .meta({ id: 'DiskLimits', description: 'Limits for both disks together; with Firecracker, for each disk.' });
export const modelPriority = z.enum(MODEL_PRIORITIES).meta({ id: 'ModelPriority' });
export const modelBudget = z
  .strictObject({
    inputTokens: whole(RANGES.modelBudget).exactOptional().describe('Tokens of prompts.'),
    outputTokens: whole(RANGES.modelBudget).exactOptional().describe('Tokens of answers.'),
    requests: whole(RANGES.modelBudget).exactOptional(),
    costNanoDollars: whole(RANGES.modelCostNanoDollars)
      .exactOptional()
      .describe('Cost by the prices of `models.toml`, in billionths of a dollar: 5000000000 is 5 dollars.'),
    windowMs: whole(RANGES.modelWindowMs)
      .exactOptional()
      .describe(
        'The limits hold for each window of this length; windows begin at its multiples since 1970. If omitted: for the life of the sandbox.',
      ),
    tokensPerMinute: whole(RANGES.modelBudget).exactOptional().describe('Rate of prompts and answers together.'),
  } satisfies Record<keyof ModelBudget, z.ZodType>)
  .meta({ id: 'ModelBudget', description: 'Limits for its requests to models.' });
/** A budget that sandboxes share. */
export const windowedBudget = modelBudget
  .omit({ tokensPerMinute: true })
  .required({ windowMs: true })
  .meta({ id: 'WindowedModelBudget', description: 'Limits per window.' });
export const modelCache = z
  .strictObject({
    ttlMs: whole(RANGES.modelCacheTtlMs).describe('Age of an answer, at most.'),
    requests: z
      .enum(CACHED_REQUESTS)
      .exactOptional()
      .describe(
        '`repeatable` (default): requests with `temperature: 0` or a seed and without tools, and embeddings. `all`: every request.',
      ),
  } satisfies Record<keyof ModelCache, z.ZodType>)
  .meta({
    id: 'ModelCache',
    description:
      'Answers of models that its equal requests get again, and those of other sandboxes of its tenant that have this.',
  });
export const modelPolicy = z
  .object({
    defaultModel: z.string().nullable().describe('Value of NEUROVISOR_MODEL; null: not set.'),
    allow: z.array(z.string()).nullable().describe('Null: all that the model servers offer.'),
    aliases: z.record(z.string(), z.string()).describe('Requested name → served name.'),
    allowHosted: z
      .array(z.string())
      .describe('Models whose prompts may leave the host; `all`: every one. Empty: none.'),
    allowFields: z.array(z.string()).describe('Fields that its requests may carry unchecked.'),
    priority: modelPriority,
    budget: modelBudget,
    cache: modelCache.nullable().describe('Null: each request reaches a model server.'),
  })
  .meta({ id: 'ModelPolicy' });
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
export const secretPlace = z
  .strictObject({
    in: z.enum(['header', 'query']),
    name: text(PLACE_NAME_CHARACTERS_MAX).describe('A header field, in any case, or a query parameter.'),
  } satisfies Record<keyof SecretPlace, z.ZodType>)
  .meta({ id: 'SecretPlace' });
