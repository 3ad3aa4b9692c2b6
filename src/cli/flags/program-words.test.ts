import { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { addInside } from '../definitions/inside.ts';
import { addRun } from '../definitions/run.ts';
import { withProgramWords } from './program-words.ts';

const program = new Command('neurovisor');
addRun(program);
addInside(program);

function split(line: string): string {
  const words = line.split(' ');
  const command = program.commands.find((one) => one.name() === words[0]) ?? program;
  return withProgramWords(words, command).join(' ');
}

describe('withProgramWords', () => {
  it.each([
    ['run main.py --verbose', 'run main.py -- --verbose'],
    ['run --memory 1G -e A=1 main.py -v --memory x', 'run --memory 1G -e A=1 main.py -- -v --memory x'],
    ['run --memory=1G main.py', 'run --memory=1G main.py --'],
    ['run -c print(1) --timeout 5s', 'run -c print(1) --timeout 5s'],
    ['run -c print(1) a --timeout 5s', 'run -c print(1) a -- --timeout 5s'],
    ['run -m app.report --year 2026', 'run -m app.report -- --year 2026'],
    ['run --module=app --year 2026', 'run --module=app -- --year 2026'],
    ['run -mapp --year', 'run -mapp -- --year'],
    ['run - --flag', 'run - -- --flag'],
    ['run -it', 'run -it'],
    ['run -ite A=1 x.py -t', 'run -ite A=1 x.py -- -t'],
    ['exec 7d -c print(1)', 'exec 7d -c print(1)'],
    ['exec 7d -e A=1 ls -l', 'exec 7d -e A=1 -- ls -l'],
    ['exec -it 7d python3 -i', 'exec -it 7d -- python3 -i'],
  ])('%s: what follows the script or program is its own', (line, expected) => expect(split(line)).toBe(expected));

  it.each([
    ['a "--" of the user decides', 'run --image alpine -- cat -A x'],
    ['a "--" after the script stays the separator', 'run main.py -- --verbose'],
    ['an unknown option is left to commander', 'run --frob main.py --x'],
    ['other commands are as they are', 'cp a 7d:b --user root'],
  ])('%s', (_, line) => expect(split(line)).toBe(line));
});
