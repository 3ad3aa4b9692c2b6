import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { actionOfReturn, compileProfile } from '../../src/machine/jail/seccomp/compile.ts';
import { parseProfile, type ThreadFilter } from '../../src/machine/jail/seccomp/profile.ts';
import { AUDIT_ARCH, syscallNames, syscallNumber } from '../../src/machine/jail/seccomp/syscalls.ts';
import { interpret } from './interpret.ts';
import { reachOf } from './reach.ts';

const ARCH = 'x86_64';
const policy = (name: string): ThreadFilter[] => {
  const path = join(import.meta.dirname, '../../policy', name);
  return [...parseProfile(readFileSync(path, 'utf8')).values()];
};
const small = (entries: readonly object[], mode = 'allow'): Uint8Array => {
  const filter = { default_action: 'kill_process', filter_action: mode, filter: entries };
  const [thread] = parseProfile(JSON.stringify({ t: filter })).values();
  if (thread === undefined) throw new Error('no thread');
  return compileProfile(thread, ARCH).program;
};
const threads = argument({ index: 0, type: 'dword', op: { masked_eq: 0x10000 }, val: 0x10000 });
function argument(condition: object): object {
  return { syscall: 'clone', args: [condition] };
}

describe('reachOf', () => {
  it('finds calls that pass always, with some arguments, or never', () => {
    const program = small([{ syscall: 'read' }, threads]);
    expect(reachOf([program], ARCH)).toEqual({ always: ['read'], conditional: ['clone'] });
    expect(reachOf([], ARCH).always).toEqual(syscallNames(ARCH));
  });

  it('a logged call passes, one with an errno does not', () => {
    const logs = small([{ syscall: 'read' }], 'log');
    expect(reachOf([logs], ARCH).always).toEqual(['read']);
    const errno = small([{ syscall: 'clone3', action: { errno: 38 } }]);
    expect(reachOf([errno], ARCH)).toEqual({ always: [], conditional: [] });
  });

  it('a call passes only if both filters allow it', () => {
    const one = small([{ syscall: 'read' }, { syscall: 'write' }, { syscall: 'clone' }]);
    const two = small([{ syscall: 'read' }, threads]);
    expect(reachOf([one, two], ARCH)).toEqual({ always: ['read'], conditional: ['clone'] });
  });

  it.each(['qemu-x86_64.json', 'firecracker-x86_64.json'])(
    '%s: agrees with the interpreter, for any arguments',
    (name) => {
      for (const filter of policy(name)) {
        const { program } = compileProfile(filter, ARCH);
        const { always, conditional } = reachOf([program], ARCH);
        const allowed = filter.rules.filter(({ action = filter.filterAction }) => action === 'allow');
        expect(new Set([...always, ...conditional])).toEqual(new Set(allowed.map(({ syscall }) => syscall)));
        for (const call of syscallNames(ARCH)) {
          const number = syscallNumber(call, ARCH) ?? -1;
          for (const value of [0n, 1n, 2n, 0x10000n, 0xae80n, 2n ** 64n - 1n]) {
            const args = Array<bigint>(6).fill(value);
            const { word } = interpret(program, { arch: AUDIT_ARCH[ARCH], number, args });
            const passes = actionOfReturn(word) === 'allow';
            const isAlways = always.includes(call);
            if (isAlways) expect([call, passes]).toEqual([call, true]);
            else if (!conditional.includes(call)) expect([call, passes]).toEqual([call, false]);
          }
        }
      }
    },
  );
});
