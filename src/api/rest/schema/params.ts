/** Paths, queries and headers of requests. */
import { z } from 'zod';
import type { Range } from '../../../sandbox/contract/limits.ts';
import { status } from '../../../sandbox/contract/schema/sandbox.ts';
import {
  list,
  sandboxReference,
  snapshotReference,
  text,
  volumeReference,
  whole,
} from '../../../sandbox/contract/schema/values.ts';

/** Parameters are text: a whole number in decimal digits. */
export const wholeText = (range: Range) =>
  z.preprocess(
    (given) => (typeof given === 'string' && /^\d{1,16}$/.test(given) ? Number(given) : given),
    whole(range),
  );

export const flag = z.preprocess(
  (given) => ({ true: true, false: false })[String(given)] ?? given,
  z.boolean({ error: 'expected true or false' }),
);

export const idParams = z.strictObject({ id: sandboxReference });

export const portParams = z.strictObject({
  id: sandboxReference,
  port: wholeText({ min: 1, max: 65_535 }).describe('TCP port in the sandbox.'),
});

export const processParams = z.strictObject({ id: sandboxReference, pid: wholeText({ min: 1, max: 2 ** 31 - 1 }) });

const offset = wholeText({ min: 0, max: 1e15 }).default(0);

export const offsetsQuery = z
  .strictObject({ stdout: offset, stderr: offset })
  .describe('Bytes of each stream that the client has.');

export const snapshotParams = z.strictObject({ snapshot: snapshotReference });

export const volumeParams = z.strictObject({
  volume: volumeReference.describe('Id or name of a volume; for the operator, a tenant’s is `TENANT/NAME`.'),
});

/** A parameter that is given several times is a list; once, it is text. */
const listOf = <Item extends z.ZodType>(item: Item, max: number, split: RegExp) =>
  z.preprocess((given) => (typeof given === 'string' ? given.split(split) : given), list(item, max));

/** Never splits. */
const WHOLE = /(?!)/;

export const listQuery = z.strictObject({
  status: listOf(status, 16, /,/)
    .optional()
    .describe('Repeatable, or separated by commas. Default: all except `ended`.'),
  metadata: listOf(z.string().max(2048), 32, WHOLE)
    .transform((pairs) => Object.fromEntries(pairs.map(splitPair)))
    .optional()
    .describe('`key=value`; repeatable, all must match.'),
  name: sandboxReference.optional(),
});

export const eventsQuery = z.strictObject({
  after: wholeText({ min: 0, max: 1e15 }).optional().describe('Only events with a higher sequence number.'),
  follow: flag.optional().describe('`false`: only stored events. Default true.'),
});

export const guestQuery = z.strictObject({
  access: z
    .enum(['read'])
    .optional()
    .describe('`read`: to read files, which works for a pause of another version, too (`foreignPause`).'),
});

export const path = text(4096).min(1).describe("Absolute, or relative to the user's home.");

export const user = text(256).min(1).optional().describe('User whose rights and home apply. Default `user`.');

export const fileQuery = z.strictObject({ path, user });

export const fileWriteQuery = z.strictObject({
  path,
  user,
  mode: z
    .string()
    .regex(/^[0-7]{3,4}$/, { error: 'expected 3 or 4 octal digits' })
    .transform((digits) => Number.parseInt(digits, 8))
    .optional()
    .describe('Permission bits, octal. Default 644.'),
});

export const fileListQuery = z.strictObject({
  path,
  user,
  depth: wholeText({ min: 1, max: 32 })
    .optional()
    .describe("1 (default): only the directory's own entries; at most 32."),
});

const session = z
  .string()
  .regex(/^[0-9a-f]{32}$/, { error: 'expected the id of a session' })
  .optional()
  .describe('The sandbox is removed when the connection of this session closes.');

export const sessionHeaders = z.object({ 'neurovisor-session': session });

export const createHeaders = z.object({
  'neurovisor-session': session,
  'idempotency-key': z
    .string()
    .regex(/^[\x21-\x7e]{1,255}$/, { error: 'expected 1 to 255 printable characters' })
    .optional()
    .describe('The same key within 10 minutes returns the same sandbox.'),
});

function splitPair(pair: string): [string, string] {
  const at = pair.indexOf('=');
  return at < 0 ? [pair, ''] : [pair.slice(0, at), pair.slice(at + 1)];
}
