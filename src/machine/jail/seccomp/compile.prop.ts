import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { callOf, filters } from '../../../../test/support/seccomp-profiles.ts';
import { decide } from '../../../../test/support/seccomp-reference.ts';
import { interpret } from '../../../../tools/seccomp/interpret.ts';
import { INSTRUCTIONS_MAX } from './cbpf.ts';
import { compileProfile, returnWord } from './compile.ts';
import { ARCHITECTURES } from './syscalls.ts';

describe('compileProfile', () => {
  for (const arch of ARCHITECTURES) {
    it(`${arch}: a program decides each call as its profile says`, () => {
      fc.assert(
        fc.property(
          filters(arch).chain((filter) =>
            fc.tuple(fc.constant(filter), fc.array(callOf(filter, arch), { minLength: 30, maxLength: 30 })),
          ),
          ([filter, calls]) => {
            const { program } = compileProfile(filter, arch);
            for (const call of calls) {
              const { word } = interpret(program, call);
              expect(word).toBe(returnWord(decide(filter, arch, call)) >>> 0);
            }
          },
        ),
        { numRuns: 1_000 },
      );
    });
  }

  it('a rule without arguments costs at most two instructions, and a call few steps', () => {
    fc.assert(
      fc.property(filters('x86_64', 300), (filter) => {
        const names = [...new Set(filter.rules.map(({ syscall }) => syscall))];
        const rules = names.map((syscall) => ({ syscall, conditions: [], action: undefined, comment: undefined }));
        const { program, instructions } = compileProfile({ ...filter, rules }, 'x86_64');
        expect(instructions).toBeLessThanOrEqual(2 * rules.length + 10);
        expect(instructions).toBeLessThanOrEqual(INSTRUCTIONS_MAX);
        const { steps } = interpret(program, { arch: 0xc000_003e, number: 1, args: [] });
        expect(steps).toBeLessThanOrEqual(4 + 2 * Math.ceil(Math.log2(2 * rules.length + 3)));
      }),
      { numRuns: 100 },
    );
  });
});
