/**
 * Seccomp profiles: the system calls that each thread of a VMM may make. Pure. The schema is that of
 * Firecracker's filter files (its docs/seccompiler.md), so that a file for its `seccompiler-bin` is a profile:
 *
 *     { "<thread>": { "default_action": "kill_process", "filter_action": "allow", "filter": [
 *         { "syscall": "fcntl", "args": [{ "index": 1, "type": "dword", "op": "eq", "val": 2 }],
 *           "comment": "which call site needs it" } ] } }
 *
 * Two differences: an entry may have its own `action` (default: `filter_action`), and an unknown key is an error, since
 * a misspelled `args` would allow everything.
 */
import { z } from 'zod';
import { describeError } from '../../../base/errors.ts';
import { JailError } from '../errors.ts';

/** The kernel's action for a call; seccomp(2), "SECCOMP_RET_…". */
export type Action =
  | 'allow'
  /** Allow, and write a line to the kernel's audit log. */
  | 'log'
  /** SIGSYS, which the program could handle. */
  | 'trap'
  | 'kill_thread'
  | 'kill_process'
  /** The call fails with this errno, 0 to 4095. */
  | { readonly errno: number }
  /** A tracer decides and gets this number, u16; without a tracer the call fails with ENOSYS. */
  | { readonly trace: number };

export const OPERATORS = ['eq', 'ne', 'lt', 'le', 'gt', 'ge'] as const;

/** An unsigned comparison of one argument. */
export interface Condition {
  /** Index of the argument, 0 to 5. */
  readonly index: number;
  /** The compared low bits of the argument: `dword` or `qword` in JSON. */
  readonly bits: 32 | 64;
  readonly operator: (typeof OPERATORS)[number] | 'masked_eq';
  readonly value: bigint;
  /** Mask of `masked_eq`, which holds if (argument & mask) == value; otherwise all bits. */
  readonly mask: bigint;
}

export interface Rule {
  readonly syscall: string;
  /** All must hold; an empty list matches every call. */
  readonly conditions: readonly Condition[];
  /** Default: the thread's `filterAction`. */
  readonly action: Action | undefined;
  /** The call site that needs it. */
  readonly comment: string | undefined;
}

/** The first rule of a system call that matches decides; without one it is `defaultAction`. */
export interface ThreadFilter {
  readonly name: string;
  readonly defaultAction: Action;
  readonly filterAction: Action;
  readonly rules: readonly Rule[];
}

/** By thread: `vmm`, `api` and `vcpu` for Firecracker, `qemu` for QEMU. */
export type Profile = ReadonlyMap<string, ThreadFilter>;

/** `log` allows calls that `enforce` refuses, and makes the kernel log them. */
export type Mode = 'enforce' | 'log';

const ERRNO_MAX = 4095;
const TRACE_MAX = 0xffff;
const U64_MAX = 2n ** 64n - 1n;
const RULES_MAX = 10_000;

const action = z.union(
  [
    z.enum(['allow', 'log', 'trap', 'kill_thread', 'kill_process']),
    z.strictObject({ errno: z.int().min(0).max(ERRNO_MAX) }),
    z.strictObject({ trace: z.int().min(0).max(TRACE_MAX) }),
  ],
  { error: 'expected allow, log, trap, kill_thread, kill_process, {"errno": n} or {"trace": n}' },
);
const u64 = z.bigint({ error: 'expected a whole number' }).max(U64_MAX, { error: 'more than 64 bits' });
const condition = z.strictObject({
  index: z.int().min(0).max(5),
  type: z.enum(['dword', 'qword']),
  op: z.union([z.enum(OPERATORS), z.strictObject({ masked_eq: u64 })]),
  val: u64,
  comment: z.string().optional(),
});
const entry = z.strictObject({
  syscall: z.string(),
  args: z.array(condition).min(1).optional(),
  action: action.optional(),
  comment: z.string().optional(),
});
const thread = z.strictObject({ default_action: action, filter_action: action, filter: z.array(entry).max(RULES_MAX) });
const schema = z.record(z.string().regex(/^[a-z][a-z0-9_-]{0,31}$/), thread);

/**
 * @param json the text of a profile
 * @throws JailError `profile_invalid`
 */
export function parseProfile(json: string): Profile {
  let value: unknown;
  try {
    value = JSON.parse(json, wholeNumbers);
  } catch (cause) {
    throw new JailError('profile_invalid', 'invalid JSON in a seccomp profile', { cause });
  }
  const twice = duplicateKey(json);
  if (twice !== undefined) throw invalid(`duplicate key "${twice}" in an object`);
  const read = schema.safeParse(value);
  if (!read.success) {
    const [issue] = read.error.issues;
    const at = issue?.path.map(String).join('.') ?? '';
    throw invalid(`${at === '' ? 'the profile' : at}: ${issue?.message ?? describeError(read.error)}`);
  }
  const profile = new Map(Object.entries(read.data).map(([name, json]) => [name, threadFilter(name, json)]));
  if (profile.size === 0) throw invalid('the profile names no thread');
  return profile;
}

/** Reads 64-bit values from the source text, since they exceed a JavaScript number. */
function wholeNumbers(key: string, value: unknown, context?: { source?: string }): unknown {
  if (typeof value !== 'number' || (key !== 'val' && key !== 'masked_eq')) return value;
  const source = context?.source ?? String(value);
  return /^\d+$/.test(source) ? BigInt(source) : value;
}

function threadFilter(name: string, json: z.infer<typeof thread>): ThreadFilter {
  return {
    name,
    defaultAction: json.default_action,
    filterAction: json.filter_action,
    rules: json.filter.map(({ syscall, args = [], action, comment }) => ({
      syscall,
      conditions: args.map(({ index, type, op, val }) => {
        const bits = type === 'dword' ? 32 : 64;
        return typeof op === 'string'
          ? { index, bits, operator: op, value: val, mask: allBits(bits) }
          : { index, bits, operator: 'masked_eq', value: val, mask: op.masked_eq };
      }),
      action,
      comment: commentOf(comment, args),
    })),
  };
}

/** An argument's comment is the name of its value: `KVM_RUN: the thread of a processor`. */
function commentOf(
  comment: string | undefined,
  args: readonly { readonly comment?: string | undefined }[],
): string | undefined {
  const names = args.flatMap((arg) => (arg.comment === undefined ? [] : [arg.comment])).join(', ');
  const parts = [names, comment ?? ''].filter((part) => part !== '');
  return parts.length === 0 ? undefined : parts.join(': ');
}

/**
 * Replaces actions that kill, trap or refuse by default with `log`. An errno of an entry stays: the VMM relies on it
 * (ENOSYS makes libc use another call).
 */
export function withMode(filter: ThreadFilter, mode: Mode): ThreadFilter {
  if (mode === 'enforce') return filter;
  return {
    ...filter,
    defaultAction: isRefusal(filter.defaultAction) ? 'log' : filter.defaultAction,
    filterAction: isRefusal(filter.filterAction) ? 'log' : filter.filterAction,
    rules: filter.rules.map((rule) =>
      rule.action !== undefined && typeof rule.action === 'string' && isRefusal(rule.action)
        ? { ...rule, action: 'log' }
        : rule,
    ),
  };
}

/** Whether the action prevents the call. */
export function isRefusal(action: Action): boolean {
  return action !== 'allow' && action !== 'log';
}

export const allBits = (bits: 32 | 64): bigint => 2n ** BigInt(bits) - 1n;

/** For messages: `errno 38`, `allow`. */
export function actionText(action: Action): string {
  if (typeof action === 'string') return action;
  return 'errno' in action ? `errno ${action.errno}` : `trace ${action.trace}`;
}

export function invalid(message: string): JailError {
  return new JailError('profile_invalid', `seccomp profile: ${message}`, {
    remedy: 'Correct the profile; docs/seccomp.md shows its form.',
  });
}

const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\]:]/g;

/**
 * Finds the first duplicate key of an object in a JSON text: `JSON.parse` silently keeps the last one.
 * @param json a text that `JSON.parse` accepts
 */
function duplicateKey(json: string): string | undefined {
  /** The keys of each open object; `null` for an array. */
  const open: (Set<unknown> | null)[] = [];
  let text: string | undefined;
  for (const [token] of json.matchAll(TOKEN)) {
    if (token === '{') open.push(new Set());
    else if (token === '[') open.push(null);
    else if (token === '}' || token === ']') open.pop();
    else if (token === ':' && text !== undefined) {
      // Parsed, since a character can be written in two ways.
      const key: unknown = JSON.parse(text);
      const keys = open.at(-1);
      if (keys?.has(key)) return String(key);
      keys?.add(key);
    }
    text = token.startsWith('"') ? token : undefined;
  }
  return undefined;
}
