/** What a sandbox may ask models: as it is requested, and as it is kept and shown. */
import { z } from 'zod';
import {
  CACHED_REQUESTS,
  MODEL_PRIORITIES,
  type ModelBudget,
  type ModelCache,
} from '../../../base/request/model-limits.ts';
import { FIELD_PATH, FIELD_PATH_CHARACTERS_MAX } from '../../../base/text/field-path.ts';
import { RANGES, REQUEST_LIMITS } from '../limits.ts';
import { CONTENT, count, list, notA, type ReadOnly, record, text, whole } from './values.ts';

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
      .optional()
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
const modelCache = z
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

const modelName = text(REQUEST_LIMITS.modelNameCharactersMax).refine(
  (name) => name.length > 0 && !/\p{Cc}/u.test(name),
  { error: `a model name has 1 to ${REQUEST_LIMITS.modelNameCharactersMax} printable characters`, params: CONTENT },
);
/** A field of requests to models, by its path. */
export const modelField = z
  .string()
  .max(FIELD_PATH_CHARACTERS_MAX)
  .regex(FIELD_PATH, { error: notA('a field, such as enable_search or messages.content.uuid') });
/** A budget of a request: beyond the shape, that a window limits something. */
export const requestedBudget = modelBudget.refine(
  ({ windowMs, tokensPerMinute: _rate, ...limits }) => windowMs === undefined || Object.keys(limits).length > 0,
  { error: 'a window needs a limit of tokens, requests or cost', params: CONTENT },
);
export const modelOptions = z
  .strictObject({
    defaultModel: modelName.nullable().exactOptional(),
    allow: list(modelName, REQUEST_LIMITS.modelsMax).nullable().exactOptional(),
    aliases: record(modelName, modelName, REQUEST_LIMITS.modelsMax).exactOptional(),
    allowHosted: list(modelName, REQUEST_LIMITS.modelsMax)
      .exactOptional()
      .describe(
        'Models that may be served outside the host, which then gets the prompts; `all`: every one. Default: none.',
      ),
    allowFields: list(modelField, REQUEST_LIMITS.allowedFieldsMax)
      .exactOptional()
      .describe(
        'Fields of its requests to the model that the bridge would refuse otherwise, by their paths: ' +
          '`enable_search`, `messages.content.uuid`. They pass unchecked.',
      ),
    priority: modelPriority
      .exactOptional()
      .describe('In the queue of a model server whose slots are taken. Default `normal`.'),
    budget: requestedBudget.exactOptional().describe('Default: no limit. Forks share the budget of their original.'),
    cache: modelCache.nullable().exactOptional().describe('Default: null, none.'),
  } satisfies Record<keyof ModelPolicy, z.ZodType>)
  .meta({ id: 'ModelOptions', description: 'Models it may use, their aliases, and what its requests may contain.' });
export type ModelOptions = ReadOnly<z.infer<typeof modelOptions>>;

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
export type ModelPolicy = ReadOnly<z.infer<typeof modelPolicy>>;

export const budgetUse = z
  .object({
    inputTokens: count,
    outputTokens: count,
    requests: count,
    costNanoDollars: count.describe('Billionths of a dollar.'),
    window: count.describe('Number of the window since 1970; 0: the whole life.'),
    windowMs: count.optional().describe('Length of the window; absent: the whole life.'),
  })
  .meta({ id: 'ModelBudgetUse' });
export const modelUse = z
  .object({
    account: z.string().describe('The sandbox whose budget it is: of a fork, that of the first original.'),
    used: budgetUse
      .nullable()
      .describe('By all that share the budget, in the window of the last use; null: nothing yet.'),
  })
  .meta({ id: 'SandboxModelUse', description: 'Use of `models.budget`.' });

export const NO_MODEL_POLICY: ModelPolicy = {
  defaultModel: null,
  allow: null,
  aliases: {},
  allowHosted: [],
  allowFields: [],
  priority: 'normal',
  budget: {},
  cache: null,
};
