/** Proposes a profile from the observed calls of a program. Pure. */
import type { TracedCall } from './strace.ts';

/** Calls whose effect depends on an argument, with the deciding arguments. */
const TELLING: Readonly<Record<string, readonly number[]>> = {
  ioctl: [1],
  fcntl: [1],
  madvise: [2],
  socket: [0, 1],
  setsockopt: [1, 2],
  getsockopt: [1, 2],
  fallocate: [1],
};
/** More combinations than this are data, not a choice. */
const COMBINATIONS_MAX = 32;
/** clone's deciding flag: without it, clone makes a process. libc chooses the others. */
const CLONE_THREAD = 0x1_0000;

interface ProposedEntry {
  readonly syscall: string;
  readonly args?: readonly {
    readonly index: number;
    readonly type: 'dword';
    readonly op: 'eq' | { readonly masked_eq: number };
    readonly val: number;
  }[];
  readonly comment: string;
}

export interface ProposedThread {
  readonly default_action: 'kill_process';
  readonly filter_action: 'allow';
  readonly filter: readonly ProposedEntry[];
}

/**
 * @param filterOf the profile's filter for a thread name
 * @returns the profile's JSON, with calls by name. Only a proposal: it lacks calls that this run did not need, and
 * includes calls that it should not have made
 */
export function proposeProfile(
  calls: Iterable<TracedCall>,
  filterOf: (thread: string) => string,
): Record<string, ProposedThread> {
  const filters = new Map<string, Map<string, TracedCall[]>>();
  for (const call of calls) {
    const filter = filterOf(call.thread);
    const names = filters.get(filter) ?? new Map<string, TracedCall[]>();
    filters.set(filter, names);
    const same = names.get(call.name) ?? [];
    names.set(call.name, same);
    same.push(call);
  }
  const entries = (names: ReadonlyMap<string, readonly TracedCall[]>): ProposedEntry[] =>
    [...names].sort(([a], [b]) => (a < b ? -1 : 1)).flatMap(([name, each]) => propose(name, each));
  return Object.fromEntries(
    [...filters].map(([filter, names]) => [
      filter,
      { default_action: 'kill_process', filter_action: 'allow', filter: entries(names) },
    ]),
  );
}

function propose(syscall: string, calls: readonly TracedCall[]): ProposedEntry[] {
  const flags = BigInt(CLONE_THREAD);
  if (syscall === 'clone' && calls.every(({ args: [first = 0n] }) => (first & flags) !== 0n)) {
    const op = { masked_eq: CLONE_THREAD };
    const args = [{ index: 0, type: 'dword', op, val: CLONE_THREAD }] as const;
    return [{ syscall, args, comment: seen(calls) }];
  }
  const telling = TELLING[syscall];
  if (telling === undefined) return [{ syscall, comment: seen(calls) }];
  const combinations = new Map<string, TracedCall[]>();
  for (const call of calls) {
    const values = telling.map((index) => BigInt.asUintN(32, call.args[index] ?? 0n));
    const key = values.join(' ');
    combinations.set(key, [...(combinations.get(key) ?? []), call]);
  }
  if (combinations.size > COMBINATIONS_MAX) return [{ syscall, comment: seen(calls) }];
  return [...combinations].map(([key, same]) => {
    const values = key.split(' ').map(Number);
    const args = telling.map((index, at) => ({
      ...({ index, type: 'dword', op: 'eq', val: values[at] ?? 0 } as const),
    }));
    return { syscall, args, comment: seen(same) };
  });
}

function seen(calls: readonly TracedCall[]): string {
  const threads = [...new Set(calls.map(({ thread }) => thread).filter((name) => name !== ''))];
  const by = threads.length === 0 ? '' : `, by ${threads.sort().join(', ')}`;
  return `seen ${calls.length === 1 ? 'once' : `${calls.length} times`}${by}`;
}
