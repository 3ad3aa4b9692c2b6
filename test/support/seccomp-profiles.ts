/** Random seccomp profiles, and calls at and around the values of their rules. */
import fc from 'fast-check';
import {
  type Action,
  allBits,
  type Condition,
  OPERATORS,
  type Rule,
  type ThreadFilter,
} from '../../src/machine/jail/seccomp/profile.ts';
import { checkRules } from '../../src/machine/jail/seccomp/profile-check.ts';
import { type Architecture, AUDIT_ARCH, syscallNames, syscallNumber } from '../../src/machine/jail/seccomp/syscalls.ts';
import type { Call } from '../../tools/seccomp/interpret.ts';

const action: fc.Arbitrary<Action> = fc.oneof(
  fc.constantFrom<Action>('allow', 'log', 'trap', 'kill_thread', 'kill_process'),
  fc.record({ errno: fc.integer({ min: 0, max: 4095 }) }),
  fc.record({ trace: fc.integer({ min: 0, max: 0xffff }) }),
);

/** Often with halves that are all zeros, all ones or equal, where mistakes with 64 bits show. */
const value = (bits: 32 | 64): fc.Arbitrary<bigint> => {
  const half = fc.oneof(
    fc.constantFrom(0n, 1n, 0x7fff_ffffn, 0x8000_0000n, 0xffff_fffen, 0xffff_ffffn),
    fc.bigInt({ min: 0n, max: 0xffff_ffffn }),
  );
  return bits === 32 ? half : fc.tuple(half, half).map(([high, low]) => (high << 32n) | low);
};

const condition: fc.Arbitrary<Condition> = fc
  .tuple(fc.integer({ min: 0, max: 5 }), fc.constantFrom<32 | 64>(32, 64))
  .chain(([index, bits]) =>
    fc
      .tuple(fc.constantFrom(...OPERATORS, 'masked_eq' as const), value(bits), value(bits))
      .map(([operator, value, mask]) =>
        operator === 'masked_eq'
          ? { index, bits, operator, value: value & mask, mask }
          : { index, bits, operator, value, mask: allBits(bits) },
      ),
  );

const rule = (names: readonly string[]): fc.Arbitrary<Rule> =>
  fc.record({
    syscall: fc.constantFrom(...names),
    conditions: fc.uniqueArray(condition, { maxLength: 3, selector: ({ index }) => index }),
    action: fc.option(action, { nil: undefined, freq: 2 }),
    comment: fc.constant(undefined),
  });

/** Many rules for few calls, or few rules for many calls, so that programs of all lengths occur. */
export const filters = (arch: Architecture, maxRules = 60): fc.Arbitrary<ThreadFilter> =>
  fc.constantFrom(3, 30, 500).chain((names) => filtersOf(syscallNames(arch).slice(0, names), maxRules));

/** With rules for these calls only. */
export const filtersOf = (names: readonly string[], maxRules: number): fc.Arbitrary<ThreadFilter> =>
  fc
    .tuple(action, action, fc.array(rule(names), { maxLength: maxRules }))
    .map(([defaultAction, filterAction, rules]) => {
      const filter = { name: 'test', defaultAction, filterAction, rules };
      return { ...filter, rules: withoutContradictions(filter) };
    })
    .filter(isSound);

/** Keeps the rules that the checker accepts. */
function withoutContradictions(filter: ThreadFilter): Rule[] {
  const kept: Rule[] = [];
  for (const rule of filter.rules) if (isSound({ ...filter, rules: [...kept, rule] })) kept.push(rule);
  return kept;
}

function isSound(filter: ThreadFilter): boolean {
  try {
    checkRules(filter);
    return true;
  } catch {
    return false;
  }
}

/** Arguments near the values of the call's rules, so that each operator is tested from both sides. */
export const callOf = (filter: ThreadFilter, arch: Architecture): fc.Arbitrary<Call> => {
  const named = filter.rules.map(({ syscall }) => syscallNumber(syscall, arch) ?? 0);
  const values = filter.rules.flatMap(({ conditions }) =>
    conditions.flatMap(({ value, mask }) => [value, value ^ (1n << 32n), value | ~mask]),
  );
  const argument = fc
    .tuple(fc.constantFrom(0n, ...values), fc.constantFrom(0n, 1n, -1n, 1n << 32n, -(1n << 32n)))
    .map(([value, off]) => BigInt.asUintN(64, value + off));
  return fc.record({
    arch: fc.oneof(
      { weight: 20, arbitrary: fc.constant(AUDIT_ARCH[arch]) },
      { weight: 1, arbitrary: fc.constantFrom(0x4000_0003, 0xc000_00b7, 0xc000_003e, 0) },
    ),
    number: fc.oneof(
      { weight: 10, arbitrary: fc.constantFrom(0, ...named) },
      { weight: 2, arbitrary: fc.constantFrom(0, ...named).map((number) => number + 1) },
      { weight: 1, arbitrary: fc.constantFrom(0x3fff_ffff, 0x4000_0000, 0x4000_0001, 0xffff_ffff) },
    ),
    args: fc.array(fc.oneof(argument, value(64)), { minLength: 6, maxLength: 6 }),
  });
};
