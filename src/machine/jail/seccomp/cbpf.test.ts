import { describe, expect, it } from 'vitest';
import { disassemble } from '../../../../tools/seccomp/disassemble.ts';
import { interpret } from '../../../../tools/seccomp/interpret.ts';
import { Assembler, SECCOMP_DATA } from './cbpf.ts';

const ALLOW = 0x7fff_0000;

/** Puts returns between a branch and its target, `count` of them. */
function far(count: number, endsInReturn: boolean): Uint8Array {
  const [near, target, end] = [{ name: 'near' }, { name: 'target' }, { name: 'end' }];
  const code = new Assembler().load(SECCOMP_DATA.number);
  code.branch('jumpIfEqual', 7, target, near).place(near);
  for (let i = 0; i < count; i += 1) code.return(i);
  code.place(target);
  if (!endsInReturn) code.load(SECCOMP_DATA.arch).branch('jumpIfEqual', 0, end, end).place(end);
  return code.return(ALLOW).assemble();
}

describe('Assembler', () => {
  it('reaches a target at any distance, with an extra instruction if a jump is too short', () => {
    for (const endsInReturn of [true, false]) {
      for (const count of [1, 254, 255, 256, 257, 600]) {
        const program = far(count, endsInReturn);
        const call = (number: number) => interpret(program, { arch: 0, number, args: [] }).word;
        expect([count, call(7), call(8)]).toEqual([count, ALLOW, 0]);
        const needed = 3 + count + (endsInReturn ? 0 : 2) + (count > 255 ? 1 : 0);
        expect(program.length / 8).toBe(needed);
      }
    }
  });

  it('replaces a jump to a return by the return', () => {
    expect(disassemble(far(300, true)).slice(0, 4)).toEqual([
      'A = number',
      'if A == 0x7 goto 2 else 3',
      'return allow',
      'return kill_thread',
    ]);
    expect(disassemble(far(300, false)).at(2)).toBe('goto 303');
  });

  it('loads a word once, and again if another path has loaded a different word', () => {
    const [a, b, c, end] = [{ name: 'a' }, { name: 'b' }, { name: 'c' }, { name: 'end' }];
    const code = new Assembler().load(16).branch('jumpIfEqual', 1, end, a);
    code.place(a).load(16).branch('jumpIfEqual', 2, end, b);
    code.place(b).load(16).and(0xff).branch('jumpIfEqual', 3, end, c);
    code.place(c).load(16).branch('jumpIfEqual', 4, end, end);
    code.place(end).load(16).branch('jumpIfEqual', 5, { name: 'x' }, { name: 'y' });
    expect(() => code.assemble()).toThrow('label x is not placed');
    const lines = disassemble(new Assembler().load(0).load(0).return(0x7fff_0000).assemble());
    expect(lines).toEqual(['A = number', 'return allow']);
  });

  it('refuses a label placed before its jump, and one placed twice', () => {
    const [back, on] = [{ name: 'back' }, { name: 'on' }];
    const loop = new Assembler().load(0).place(back).branch('jumpIfEqual', 0, back, on);
    expect(() => loop.place(on).return(0).assemble()).toThrow('label back is before its jump');
    expect(() => loop.place(on)).toThrow('twice');
  });
});
