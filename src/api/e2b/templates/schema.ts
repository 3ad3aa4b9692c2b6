/** Requests and answers about templates, as E2B's clients send and expect them. */
import { z } from 'zod';
import { RANGES } from '../../../sandbox/contract/limits.ts';
import { list } from '../../../sandbox/contract/schema/values.ts';
import { integerText } from '../integer-text.ts';
import { E2B_LIMITS } from '../limits.ts';

const NAME_CHARACTERS_MAX = 256;
const name = z.string().min(1).max(NAME_CHARACTERS_MAX);
const tags = list(z.string().max(NAME_CHARACTERS_MAX), E2B_LIMITS.tagsMax);
const within = ({ min, max }: { readonly min: number; readonly max: number }) => z.number().int().min(min).max(max);

export const newTemplateBody = z.object({
  name: name.optional(),
  /** Sent by older clients. */
  alias: name.optional(),
  tags: tags.nullish(),
  cpuCount: within(RANGES.cpus).nullish(),
  memoryMB: within(RANGES.memoryMib).nullish(),
  minFreeDiskMb: within({ min: 0, max: RANGES.diskMib.max }).nullish(),
});
export type NewTemplateBody = z.infer<typeof newTemplateBody>;

const text = z.string().max(E2B_LIMITS.stepCharactersMax);
const step = z.object({
  type: z.string().max(32),
  args: list(text, 1000).nullish(),
  filesHash: z.string().max(128).nullish(),
  force: z.boolean().nullish(),
});
export type StepBody = z.infer<typeof step>;

export const buildBody = z.object({
  fromImage: z.string().max(1024).nullish(),
  fromTemplate: name.nullish(),
  fromImageRegistry: z.object({ type: z.string() }).nullish(),
  force: z.boolean().nullish(),
  steps: list(step, E2B_LIMITS.stepsMax).nullish(),
  startCmd: text.nullish(),
  readyCmd: text.nullish(),
});
export type BuildBody = z.infer<typeof buildBody>;

export const tagsBody = z.object({ target: name, tags: tags.min(1) });
export const untagBody = z.object({ name, tags: tags.min(1) });
export const updateBody = z.object({ public: z.boolean().nullish() });
export const templateParams = z.object({ id: name });
export const hashParams = z.object({ id: name, hash: z.string().max(128) });
export const aliasParams = z.object({ alias: name });
export const uploadParams = z.object({ token: z.string().max(64) });
export const buildParams = z.object({ id: name, build: z.string().max(64) });
const whole = integerText(0, Number.MAX_SAFE_INTEGER);
export const statusQuery = z.object({
  logsOffset: whole.optional(),
  limit: whole.optional(),
  level: z.string().optional(),
});

export const newTemplateAnswer = z.object({
  templateID: z.string(),
  buildID: z.string(),
  public: z.boolean(),
  names: z.array(z.string()),
  tags: z.array(z.string()),
  aliases: z.array(z.string()),
});
export const uploadAnswer = z.object({
  present: z.boolean(),
  url: z.string(),
  headers: z.record(z.string(), z.string()),
});
const logEntry = z.object({
  timestamp: z.string(),
  level: z.enum(['debug', 'info', 'warn', 'error']),
  message: z.string(),
  step: z.string().optional(),
});
export const statusAnswer = z.object({
  templateID: z.string(),
  buildID: z.string(),
  status: z.enum(['waiting', 'building', 'ready', 'error']),
  logs: z.array(z.string()),
  logEntries: z.array(logEntry),
  reason: z
    .object({ message: z.string(), step: z.string().optional(), logEntries: z.array(logEntry).optional() })
    .optional(),
});
export const aliasAnswer = z.object({ templateID: z.string(), public: z.boolean() });
export const tagsAnswer = z.object({ tags: z.array(z.string()), buildID: z.string() });
export const tagList = z.array(z.object({ tag: z.string(), buildID: z.string(), createdAt: z.string() }));
const common = {
  templateID: z.string(),
  public: z.boolean(),
  aliases: z.array(z.string()),
  names: z.array(z.string()),
  createdAt: z.string(),
  updatedAt: z.string(),
  lastSpawnedAt: z.string().nullable(),
  spawnCount: z.number(),
};
const size = { cpuCount: z.number(), memoryMB: z.number(), diskSizeMB: z.number() };
export const listedTemplate = z.object({
  ...common,
  ...size,
  buildID: z.string(),
  buildCount: z.number(),
  buildStatus: z.literal('ready'),
  createdBy: z.null(),
  envdVersion: z.string(),
});
export const templateDetail = z.object({
  ...common,
  builds: z.array(
    z.object({
      ...size,
      buildID: z.string(),
      status: z.literal('ready'),
      createdAt: z.string(),
      updatedAt: z.string(),
      finishedAt: z.string(),
      envdVersion: z.string(),
    }),
  ),
});
export const updateAnswer = z.object({ names: z.array(z.string()) });
