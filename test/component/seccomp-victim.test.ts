/** The compiler's programs in the real kernel: every action, every operator, calls of other architectures. */
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { INSTRUCTIONS_MAX } from '../../src/machine/jail/seccomp/cbpf.ts';
import { compileProfile, X32_BIT } from '../../src/machine/jail/seccomp/compile.ts';
import {
  type Action,
  isRefusal,
  OPERATORS,
  parseProfile,
  type ThreadFilter,
} from '../../src/machine/jail/seccomp/profile.ts';
import { AUDIT_ARCH, syscallNumber } from '../../src/machine/jail/seccomp/syscalls.ts';
import { callOf, filtersOf } from '../support/seccomp-profiles.ts';
import { decide } from '../support/seccomp-reference.ts';
import { outcomeOf, Victim, type VictimCall } from '../support/seccomp-victim.ts';

const uid = process.getuid?.() ?? 0;
const gid = process.getgid?.() ?? 0;
/** Calls without arguments: the filter still sees six values, and the kernel ignores them. */
const HARMLESS: Readonly<Record<string, number>> = {
  getuid: uid,
  geteuid: process.geteuid?.() ?? 0,
  getgid: gid,
  getegid: process.getegid?.() ?? 0,
  sched_yield: 0,
};
/** Results of the calls by number. */
const RESULTS = new Map(
  Object.entries(HARMLESS).map(([name, result]) => [syscallNumber(name, 'x86_64') ?? -1, result]),
);
/** asm/unistd_32.h: a 32-bit program's call, with 16-bit results. */
const I386_GETUID = 24;
const number = (name: string): number => syscallNumber(name, 'x86_64') ?? -1;
const program = (filter: ThreadFilter): Uint8Array => compileProfile(filter, 'x86_64').program;

/** @param json as in a file; a bigint is written as an integer */
function filter(json: object): ThreadFilter {
  const text = JSON.stringify({ test: json }, (_, value: unknown) =>
    typeof value === 'bigint' ? `#${value}` : value,
  ).replaceAll(/"#(\d+)"/g, '$1');
  const [thread] = parseProfile(text).values();
  if (thread === undefined) throw new Error('no thread');
  return thread;
}

const onGetuid = (condition: object): ThreadFilter =>
  filter({ default_action: { errno: 1 }, filter_action: 'allow', filter: [{ syscall: 'getuid', args: [condition] }] });

describe('a compiled filter in the kernel', () => {
  let victim: Victim;
  beforeAll(() => {
    victim = new Victim();
  });
  afterAll(() => victim[Symbol.dispose]());

  it('allows, logs, traps, kills or returns an errno, by entry', () => {
    const actions: readonly Action[] = [
      ...(['allow', 'log', 'trap', 'kill_thread', 'kill_process'] as const),
      { errno: 0 },
      { errno: 13 },
      { errno: 4095 },
      { trace: 7 },
    ];
    const outcomes = (filters: readonly object[]): string[] =>
      victim.run(filters.map((json) => ({ program: program(filter(json)), calls: [{ number: number('getuid') }] })));
    const expected = actions.map((action) => outcomeOf(action, number('getuid'), uid));
    const ofEntries = actions.map((action) => ({
      default_action: 'kill_process',
      filter_action: { errno: 99 },
      filter: [{ syscall: 'getuid', action }],
    }));
    expect(outcomes(ofEntries)).toEqual(expected);
    const byDefault = actions.map((action) => ({ default_action: action, filter_action: { errno: 99 }, filter: [] }));
    expect(outcomes(byDefault)).toEqual(expected);
  });

  it('compares each argument by each operator, in 32 and 64 bits', () => {
    const middle = { dword: 0x8000_0000n, qword: 0x1_8000_0000n };
    const tried = (['dword', 'qword'] as const).flatMap((type) =>
      OPERATORS.flatMap((op) =>
        [0, 1, 2, 3, 4, 5].map((index) => {
          const val = middle[type];
          const high = 0xffff_ffff_0000_0000n;
          const values = [0n, val - 1n, val, val + 1n, val ^ (1n << 40n), val | high, high, ~0n];
          const args = values.map((value) => BigInt.asUintN(64, value));
          return { json: { index, type, op, val }, index, args };
        }),
      ),
    );
    const lines = victim.run(
      tried.map(({ json, index, args }) => ({
        program: program(onGetuid(json)),
        calls: args.map((value) => ({
          number: number('getuid'),
          args: [0, 1, 2, 3, 4, 5].map((at) => (at === index ? value : 77n)),
        })),
      })),
    );
    const holds = {
      eq: (a: bigint, b: bigint) => a === b,
      ne: (a: bigint, b: bigint) => a !== b,
      lt: (a: bigint, b: bigint) => a < b,
      le: (a: bigint, b: bigint) => a <= b,
      gt: (a: bigint, b: bigint) => a > b,
      ge: (a: bigint, b: bigint) => a >= b,
    };
    const expected = tried.flatMap(({ json: { type, op, val }, args }) =>
      args.map((value) => {
        const seen = BigInt.asUintN(type === 'dword' ? 32 : 64, value);
        return outcomeOf(holds[op](seen, val) ? 'allow' : { errno: 1 }, number('getuid'), uid);
      }),
    );
    expect(lines).toEqual(expected);
  });

  it('compares only the bits of a mask', () => {
    // Like the rule for threads: CLONE_THREAD, with any other flags.
    const one = program(onGetuid({ index: 0, type: 'dword', op: { masked_eq: 0x1_0000 }, val: 0x1_0000 }));
    const two = program(onGetuid({ index: 2, type: 'qword', op: { masked_eq: 0xf000_0000_0000_00f0n }, val: 0x50 }));
    const getuid = (...args: bigint[]): VictimCall => ({ number: number('getuid'), args });
    expect(
      victim.run([
        { program: one, calls: [getuid(0x3d_0f00n), getuid(0x1_0000n), getuid(0x2_0011n), getuid(0n)] },
        {
          program: two,
          calls: [
            getuid(0n, 0n, 0x0fff_ffff_ffff_ff5fn),
            getuid(0n, 0n, 0x50n),
            getuid(0n, 0n, 0x1000_0000_0000_0050n),
            getuid(0n, 0n, 0x70n),
          ],
        },
      ]),
    ).toEqual(
      [true, true, false, false, true, true, false, false].map((isAllowed) =>
        outcomeOf(isAllowed ? 'allow' : { errno: 1 }, number('getuid'), uid),
      ),
    );
  });

  it('kills x32 and 32-bit calls, even where all calls are allowed', () => {
    const open = program(filter({ default_action: 'allow', filter_action: { errno: 1 }, filter: [] }));
    const lines = victim.run([
      {
        program: open,
        calls: [
          { number: number('getuid') },
          { number: X32_BIT | number('getuid') },
          { number: 0xffff_ffff },
          { number: I386_GETUID, abi: 32 },
        ],
      },
    ]);
    expect(lines).toEqual([`returned ${uid}`, ...Array(3).fill('process died 31')]);
  });

  it('accepts 4096 instructions; the compiler refuses more, like the kernel', () => {
    const nop = Uint8Array.of(0x20, 0, 0, 0, 0, 0, 0, 0);
    const allow = Uint8Array.of(6, 0, 0, 0, 0, 0, 0xff, 0x7f);
    const long = (count: number): Uint8Array => Buffer.concat([...Array<Uint8Array>(count - 1).fill(nop), allow]);
    const calls = [{ number: number('getuid') }];
    expect(
      victim.run([
        { program: long(INSTRUCTIONS_MAX), calls },
        { program: long(INSTRUCTIONS_MAX + 1), calls },
      ]),
    ).toEqual([`returned ${uid}`, 'program refused 22']);
  });

  it('decides random calls as random profiles say', () => {
    const pairs = fc.sample(
      filtersOf(Object.keys(HARMLESS), 40).chain((filter) =>
        fc.tuple(fc.constant(filter), fc.array(callOf(filter, 'x86_64'), { minLength: 15, maxLength: 15 })),
      ),
      60,
    );
    const cases = pairs.map(([filter, random]) => {
      const calls = random
        .filter(({ arch }) => arch === AUDIT_ARCH.x86_64)
        .map((call) => ({ call, action: decide(filter, 'x86_64', call) }))
        // A call next to a harmless one may not be made.
        .filter(({ call, action }) => isRefusal(action) || RESULTS.has(call.number));
      return { filter, calls };
    });
    const lines = victim.run(
      cases.map(({ filter, calls }) => ({ program: program(filter), calls: calls.map(({ call }) => call) })),
    );
    const expected = cases.flatMap(({ calls }) =>
      calls.map(({ call, action }) => outcomeOf(action, call.number, RESULTS.get(call.number) ?? -1)),
    );
    expect(lines).toEqual(expected);
    expect(new Set(expected.map((line) => line.split(' ')[0])).size).toBe(4);
  });
});
