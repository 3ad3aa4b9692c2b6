/**
 * Parses the output of strace(1) with numeric arguments. Pure. Calls count from the last execve on, in the process that
 * made it, since earlier ones belong to a launcher; or, for a program that filters itself, from each thread's filter
 * on.
 */

/** Followed by the output file and the traced program. */
export const STRACE = ['strace', '-f', '-qq', '-e', 'raw=!prctl,execve', '-o'] as const;

export interface TracedCall {
  /** The thread's name (PR_SET_NAME); empty until set. */
  readonly thread: string;
  readonly name: string;
  /** The arguments that strace knows, u64. */
  readonly args: readonly bigint[];
}

/** The start of the counted calls: the last exec, the last exec of a program, or its own filter. */
export type Since = 'exec' | 'filter' | { readonly program: string };

interface Line {
  readonly id: string;
  readonly name: string;
  /** The text in the parentheses; undefined for the second half of an interrupted call. */
  readonly args: string | undefined;
  /** Undefined if it is in a later line. */
  readonly result: string | undefined;
}

/** `7 read(0x3, 0x7ff0, 0x8) = 0x8`, `7 read(0x3, 0x7ff0, 0x8 <unfinished ...>`, `7 <... read resumed>) = 0x8` */
const LINE = /^(\d+) +(?:(\w+)\((.*?)|<\.\.\. (\w+) resumed>.*?)(?:\) += (\S+).*| <unfinished \.\.\.>)$/;
const SET_NAME = /^PR_SET_NAME, "((?:[^"\\]|\\.)*)"/;
const EXECUTED = /^"((?:[^"\\]|\\.)*)"/;
/** prctl by name, seccomp by number: SECCOMP_SET_MODE_FILTER. */
const SET_FILTER = /^(?:PR_SET_SECCOMP, SECCOMP_MODE_FILTER|0x1,)/;
const STARTS_THREAD: ReadonlySet<string> = new Set(['clone', 'clone3']);
const CLONE_THREAD = 0x1_0000n;

/** @param traces the contents of strace's output files, made with `STRACE` */
export function tracedCalls(traces: Iterable<string>, since: Since): TracedCall[] {
  return [...traces].flatMap((trace) => {
    const lines = trace.split('\n').flatMap(readLine);
    if (since === 'filter') return callsSinceFilter(lines);
    return callsSinceExec(lines, since === 'exec' ? undefined : since.program);
  });
}

function readLine(text: string): Line[] {
  const [matched, id = '', begun, args, resumed, result] = LINE.exec(text) ?? [];
  const name = begun ?? resumed;
  return matched === undefined || name === undefined ? [] : [{ id, name, args, result }];
}

function callsSinceExec(lines: readonly Line[], name: string | undefined): TracedCall[] {
  const last = lines.findLastIndex(
    (line, at) => line.name === 'execve' && line.result === '0' && isExecOf(lines, at, name),
  );
  const program = lines[last];
  if (program === undefined) return [];
  const names = new Map([[program.id, '']]);
  const out: TracedCall[] = [{ thread: '', name: 'execve', args: [] }];
  for (const line of lines.slice(last + 1)) {
    const thread = names.get(line.id);
    if (thread === undefined) continue;
    const child = startedThread(line);
    if (child !== undefined) names.set(child, thread);
    names.set(line.id, newName(line) ?? thread);
    if (line.args !== undefined) out.push(tracedCall(line, thread));
  }
  return out;
}

/** The path is in the first half of an interrupted call. */
function isExecOf(lines: readonly Line[], at: number, program: string | undefined): boolean {
  if (program === undefined) return true;
  const { id } = lines[at] ?? {};
  const begun = lines.findLast(
    (line, index) => index <= at && line.id === id && line.name === 'execve' && line.args !== undefined,
  );
  const [, path = ''] = EXECUTED.exec(begun?.args ?? '') ?? [];
  return path.slice(path.lastIndexOf('/') + 1) === program;
}

function callsSinceFilter(lines: readonly Line[]): TracedCall[] {
  const names = new Map<string, string>();
  const filtered = new Set<string>();
  const out: TracedCall[] = [];
  for (const line of lines) {
    const thread = names.get(line.id) ?? '';
    const child = startedThread(line);
    if (child !== undefined) {
      names.set(child, names.get(child) ?? thread);
      if (filtered.has(line.id)) filtered.add(child);
    }
    names.set(line.id, newName(line) ?? thread);
    if (line.args !== undefined && filtered.has(line.id)) out.push(tracedCall(line, thread));
    const isFilter = line.name === 'seccomp' || line.name === 'prctl';
    if (isFilter && SET_FILTER.test(line.args ?? '')) filtered.add(line.id);
  }
  return out;
}

/** clone's flags distinguish threads; clone3 has them in memory, and libc uses it only for threads. */
function startedThread({ name, args, result }: Line): string | undefined {
  const id = Number(result);
  if (!STARTS_THREAD.has(name) || !(id > 0)) return undefined;
  const [flags] = name === 'clone' && args !== undefined ? numbers(args) : [];
  const isProcess = flags !== undefined && (flags & CLONE_THREAD) === 0n;
  return isProcess ? undefined : String(id);
}

function newName({ name, args }: Line): string | undefined {
  return name === 'prctl' ? SET_NAME.exec(args ?? '')?.[1] : undefined;
}

function tracedCall({ name, args = '' }: Line, thread: string): TracedCall {
  return { thread, name, args: name === 'prctl' ? [] : numbers(args) };
}

function numbers(args: string): bigint[] {
  const words = args.split(', ').filter((word) => /^(?:0x[0-9a-f]+|\d+)$/.test(word));
  return words.map((word) => BigInt.asUintN(64, BigInt(word)));
}
