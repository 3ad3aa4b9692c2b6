/**
 * Parsers for the messages of a guest. Each takes hostile bytes and returns a typed value or a reason. Unknown fields
 * are ignored; the line limit bounds texts.
 */
import { z } from 'zod';
import { GuestError, type GuestErrorCode } from './errors.ts';
import type { FileEntry, FileEvent, GuestEvent, GuestStats, ProcessExit } from './guest.ts';
import { GUEST_LIMITS } from './limits.ts';

const count = z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER);
const milliseconds = z.number().nonnegative().max(Number.MAX_SAFE_INTEGER);
const pid = z
  .number()
  .int()
  .positive()
  .max(2 ** 31 - 1);
/** Text for humans, which may contain control characters. */
const message = z.string().transform(printable);

const helloSchema = z.object({
  type: z.literal('hello'),
  protocol: z.number().int(),
  agent: z.string().max(64).transform(printable),
  python: z.string().max(64).transform(printable),
  timings: z.object({
    kernelToInitMs: milliseconds.nullable(),
    initToAgentMs: milliseconds.nullable(),
    agentToHelloMs: milliseconds,
  }),
  overlay: z.enum(['disk', 'memory', 'none']),
  cgroup: z.boolean(),
});
export type Hello = z.infer<typeof helloSchema>;

/** Parsed before the rest, so that another version gets its own answer. */
const anyHelloSchema = z.object({ type: z.literal('hello'), protocol: z.number().int() });

const confirmSchema = z.discriminatedUnion('type', [
  z.object({ type: z.literal('ready'), problems: z.array(message).max(32) }),
  z.object({ type: z.literal('refused'), code: z.string().max(64), message }),
]);

const victimSchema = z.object({ pid, name: message, rssBytes: count });
/** A percentage of time; a guest may claim more than 100. */
const percent = z.number().min(0).max(100);

const exitSchema = z.object({
  exitCode: z.number().int().min(0).max(255).nullable(),
  signal: z
    .string()
    .regex(/^SIG[A-Z0-9]{1,12}$/)
    .nullable(),
  timedOut: z.boolean(),
  oomKilled: z.boolean(),
  oomVictim: victimSchema.nullable().default(null),
  truncated: z.boolean(),
  durationMs: milliseconds,
});

const eventSchema = z.discriminatedUnion('type', [
  z.object({
    type: z.literal('pressure'),
    memoryBytes: count,
    highEvents: count,
    limitBytes: count.default(0),
    some: percent.default(0),
    full: percent.default(0),
  }),
  z.object({ type: z.literal('near_oom'), memoryBytes: count, limitBytes: count }),
  z.object({ type: z.literal('oom'), oomKills: count, detail: message, victim: victimSchema.nullable().default(null) }),
  z.object({ type: z.literal('exit'), pid, exit: exitSchema }),
  z.object({
    type: z.literal('warm'),
    modules: z.array(z.object({ name: message, durationMs: milliseconds, error: message.nullable() })).max(256),
  }),
  z.object({ type: z.literal('log'), level: z.enum(['warn', 'info']), message }),
  z.object({ type: z.literal('dropped'), count }),
]);

const fileName = fileText(GUEST_LIMITS.fileNameBytesMax);
const filePath = fileText(GUEST_LIMITS.pathBytesMax);

const fileType = z.enum(['file', 'directory', 'symlink', 'other']);
const entrySchema = z.object({
  name: fileName,
  path: filePath,
  type: fileType,
  bytes: count,
  mode: z.number().int().min(0).max(0o7777),
  owner: z.string().max(256),
  group: z.string().max(256),
  modifiedMs: z.number().int().safe(),
  symlinkTarget: filePath.nullable(),
  target: z.object({ path: filePath, type: fileType, mode: z.number().int().min(0).max(0o7777) }).nullish(),
  metadata: z.record(z.string().max(256), z.string().max(GUEST_LIMITS.metadataBytesMax)).optional(),
});

const statsSchema = z.object({
  cpuCount: count,
  cpuBusyMs: count,
  uptimeMs: count,
  memoryTotalBytes: count,
  memoryAvailableBytes: count,
  userMemoryBytes: count.nullable(),
  userProcesses: count.nullable(),
  diskTotalBytes: count,
  diskFreeBytes: count,
  oomKills: count.nullable(),
});

const processSchema = z.object({
  pid,
  kind: z.enum(['exec', 'python']),
  argv: z.array(z.string()).max(64),
  cwd: z.string(),
  user: z.string(),
  tag: z.string().nullable(),
  pty: z.boolean(),
  detached: z.boolean(),
  ageMs: count,
});
const processesSchema = z.object({
  processes: z.array(processSchema).max(1024),
  ended: z
    .array(processSchema.extend({ exit: exitSchema }))
    .max(1024)
    .default([]),
});

const offsetsSchema = z.object({ stdout: count, stderr: count });
const startedSchema = z.object({
  pid,
  warm: z.boolean(),
  from: offsetsSchema.optional(),
  to: offsetsSchema.optional(),
});
const entryReplySchema = z.object({ entry: entrySchema });
const openedSchema = z.object({ bytes: count, modifiedMs: z.number().int().safe(), offset: count });
const exitFrameSchema = exitSchema.extend({ type: z.literal('exit') });
const fileEventSchema = z.object({
  type: z.enum(['create', 'write', 'remove', 'rename', 'chmod', 'overflow', 'ended']),
  name: filePath.default(''),
});

export type Parsed<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly reason: string };

export const parseHello = parser(helloSchema);
export const parseAnyHello = parser(anyHelloSchema);
export const parseConfirm = parser(confirmSchema);
export const parseEvent: (bytes: Uint8Array) => Parsed<GuestEvent> = parser(eventSchema);
export const parseEntry: (bytes: Uint8Array) => Parsed<FileEntry> = parser(entrySchema);
export const parseExitFrame: (bytes: Uint8Array) => Parsed<ProcessExit> = parser(
  exitFrameSchema.transform(({ type: _type, ...exit }) => exit),
);
export const parseFileEvent: (
  bytes: Uint8Array,
) => Parsed<FileEvent | { readonly type: 'ended'; readonly name: string }> = parser(fileEventSchema);

/** The answer to a request: its fields, or the guest's refusal as an error. */
export type Reply =
  | { readonly ok: true; readonly fields: unknown }
  | { readonly ok: false; readonly error: GuestError };

const replySchema = z.union([
  z.looseObject({ ok: z.literal(true) }),
  z.object({ ok: z.literal(false), code: z.string().max(64), message }),
]);
const parseReplyObject = parser(replySchema);

export function parseReply(bytes: Uint8Array): Parsed<Reply> {
  const parsed = parseReplyObject(bytes);
  if (!parsed.ok) return parsed;
  const reply = parsed.value;
  if (reply.ok) return { ok: true, value: { ok: true, fields: reply } };
  return { ok: true, value: { ok: false, error: refusal(reply.code, reply.message) } };
}

export const readStarted = reader(startedSchema);
export const readEntry: (fields: unknown) => Parsed<{ entry: FileEntry }> = reader(entryReplySchema);
export const readOpened = reader(openedSchema);
export const readStats: (fields: unknown) => Parsed<GuestStats> = reader(statsSchema);
export const readProcesses = reader(processesSchema);

function parser<T>(schema: z.ZodType<T>): (bytes: Uint8Array) => Parsed<T> {
  const read = reader(schema);
  return (bytes) => {
    let value: unknown;
    try {
      value = JSON.parse(UTF8.decode(bytes));
    } catch (error) {
      // V8's message quotes the text.
      const why = error instanceof Error ? printable(error.message) : '';
      return { ok: false, reason: `not JSON: ${why}` };
    }
    return read(value);
  };
}

function reader<T>(schema: z.ZodType<T>): (value: unknown) => Parsed<T> {
  return (value) => {
    const result = schema.safeParse(value);
    if (result.success) return { ok: true, value: result.data };
    const issue = result.error.issues[0];
    const where = issue?.path.map(String).join('.') ?? '';
    const what = where === '' ? 'message' : where;
    return { ok: false, reason: printable(`${what}: ${issue?.message ?? 'bad'}`) };
  };
}

/** A name or path. The agent writes a byte that is not UTF-8 as a lone surrogate, U+DC80 to U+DCFF. */
function fileText(bytesMax: number): z.ZodType<string> {
  const fits = (text: string): boolean => {
    if (text.length > bytesMax) return false;
    const escaped = text.match(/[\udc80-\udcff]/gu)?.length ?? 0;
    return Buffer.byteLength(text) - 2 * escaped <= bytesMax;
  };
  return z.string().refine(fits, `longer than ${bytesMax} bytes`);
}

const UTF8 = new TextDecoder('utf-8', { fatal: true });

/** One bounded line without control characters, safe for a terminal and a log. */
function printable(text: string): string {
  return text.slice(0, GUEST_LIMITS.messageCharactersMax).replaceAll(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, ' ');
}

const REMEDIES: Partial<Record<GuestErrorCode, string>> = {
  disk_full: 'Give the sandbox a larger disk (--disk), or delete files in it.',
  exhausted: 'Give the sandbox more memory, or run fewer programs in it at the same time.',
  too_large: 'Write the content to a file in the sandbox and pass its path.',
  suspended: 'Resume the sandbox if it is paused, then attach to the program, which is still running.',
  hello_refused: 'Run `neurovisor setup` to rebuild the image with the agent of this version.',
  connection_lost:
    'Check whether the sandbox still runs (`neurovisor inspect`), then repeat the operation; a program that was not ' +
    'detached has ended with its connection.',
  timeout: 'Repeat it when the guest has less work, or remove the sandbox if its agent no longer answers.',
  not_found: 'Check the name; relative paths start at the home of the guest user.',
  already_exists: 'Choose another name, or remove what is there.',
  permission_denied: 'Choose a path of the guest user, or use the user root.',
  protocol_error: 'Remove the sandbox: its agent was damaged or taken over.',
};

/** The agent's refusal to run a script. */
const NO_PYTHON = /^this image has no Python\b/;
const USE_PROGRAM =
  'Run a program of the image instead (run --image IMAGE -- PROGRAM, or exec), or use an image with Python.';

const CODES: ReadonlySet<string> = new Set([
  'not_found',
  'already_exists',
  'permission_denied',
  'disk_full',
  'invalid_request',
  'too_large',
  'exhausted',
  'guest_failed',
] satisfies GuestErrorCode[]);

/** An agent's answer to an operation of a later version. */
const OLD_AGENT = /^unknown operation\b/;
const NEW_SANDBOX = "Create a new sandbox: this one's agent is of an older version, which keeps no output.";

/** Converts milliseconds since 1970. */
export function wallNanoseconds(wallMs: number): bigint {
  return BigInt(Math.round(wallMs * 1000)) * 1000n;
}

/** The guest's error answer as a GuestError; an unknown code becomes `guest_failed`. */
function refusal(code: string, text: string): GuestError {
  return guestError(CODES.has(code) ? (code as GuestErrorCode) : 'guest_failed', text);
}

export function guestError(code: GuestErrorCode, text: string, cause?: unknown): GuestError {
  const remedy = NO_PYTHON.test(text) ? USE_PROGRAM : OLD_AGENT.test(text) ? NEW_SANDBOX : REMEDIES[code];
  return new GuestError(code, text, {
    ...(cause === undefined ? {} : { cause }),
    ...(remedy === undefined ? {} : { remedy }),
  });
}
