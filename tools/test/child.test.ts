import { expect, it } from 'vitest';
import { labeled, runProgram, type Shell } from './child.ts';

function recorder(): { readonly shell: Shell; text(): string } {
  let text = '';
  const write = (more: string): void => {
    text += more;
  };
  const signal = new AbortController().signal;
  return { shell: { signal, env: process.env, isTerminal: false, write }, text: () => text };
}

it('labeled: two programs side by side never share a line', () => {
  const { shell, text } = recorder();
  const one = labeled(shell, 'one | ');
  const two = labeled(shell, 'two | ');
  one.write('a');
  two.write('x\ny');
  one.write('b\n\nc');
  one.flush();
  two.flush();
  two.flush();
  expect(text()).toBe('two | x\none | ab\none | \none | c\ntwo | y\n');
});

it('runProgram: forwards output and returns the status, 1 for a signal', async () => {
  const { shell, text } = recorder();
  const program = (code: string): Promise<number> => runProgram(shell, [process.execPath, '-e', code]);
  expect(await program('console.log(process.env.NO_COLOR); process.exit(3)')).toBe(3);
  expect(text()).toBe('1\n');
  expect(await program("process.kill(process.pid, 'SIGKILL')")).toBe(1);
});
