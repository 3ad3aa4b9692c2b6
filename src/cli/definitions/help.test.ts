import { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { addCreate } from './create.ts';
import { addDaemon } from './daemon.ts';
import { helpWords } from './help.ts';
import { addImage } from './image.ts';
import { addInside } from './inside.ts';
import { addMachine } from './machine.ts';
import { addRun } from './run.ts';
import { addSandbox } from './sandbox.ts';
import { addTemplate } from './template.ts';
import { addUpdate } from './update.ts';

const program = new Command('neurovisor');
for (const add of [addRun, addCreate, addUpdate, addSandbox, addInside, addDaemon, addTemplate, addMachine, addImage])
  add(program);

describe('helpWords', () => {
  it.each([
    [['help'], ['help']],
    [
      ['help', 'run'],
      ['run', '--help'],
    ],
    [
      ['help', 'pool', 'set'],
      ['pool', 'set', '--help'],
    ],
    // What follows is an argument of it, and must not be run.
    [
      ['help', 'run', 'x.py'],
      ['run', '--help'],
    ],
    [
      ['run', 'x.py', '--', '--help'],
      ['run', 'x.py', '--', '--help'],
    ],
    [
      ['run', 'x.py', '--', '--help', 'all'],
      ['run', 'x.py', '--', '--help', 'all'],
    ],
    [
      ['run', '--help', 'all'],
      ['run', '--help'],
    ],
    [['ls'], ['ls']],
    [['--help'], ['--help']],
    [['help', 'frob'], ['frob']],
    [['frob', '--help'], ['frob']],
    [
      ['help', 'pool', 'frob'],
      ['pool', 'help', 'frob'],
    ],
  ])('%j is parsed as %j', (words, parsed) => expect(helpWords(program, words)).toEqual(parsed));
});

describe('the sizes that help names', () => {
  const sizesOf = (...path: readonly string[]): readonly string[] => {
    const named = path.reduce<Command | undefined>(
      (command, name) => command?.commands.find((one) => one.name() === name),
      program,
    );
    const options = named?.options.filter(({ long }) => ['--cpus', '--memory', '--disk'].includes(long ?? ''));
    return options?.map(({ description }) => /\(default: (.*)\)$/.exec(description)?.[1] ?? '') ?? [];
  };

  it.each([[['run']], [['create']], [['pool', 'set']], [['template', 'create']]])('%j: those of a sandbox', (path) => {
    expect(sizesOf(...path)).toEqual(['1', '512M', '2G']);
  });
  it('image build: those of the VM that runs the steps', () => {
    expect(sizesOf('image', 'build')).toEqual(['2', '2G', '8G']);
  });
});

describe('descriptions', () => {
  const all = (command: Command): Command[] => [command, ...command.commands.flatMap(all)];
  it.each(all(program).map((command) => [command.name(), command] as const))(
    '%s: uses paragraphs that wrap at any terminal width',
    (_name, command) => {
      expect(command.description()).not.toMatch(/[^\n]\n[^\n]/);
      command.configureOutput({ getOutHelpWidth: () => 50 });
      const [head = ''] = command
        .helpInformation()
        .split(/\n(?:Arguments|Options|What to run|Models|Size and time|Where it listens):/);
      // Its usage is one line, as commander writes it.
      const widest = Math.max(
        ...head
          .split('\n')
          .slice(1)
          .map((line) => line.length),
      );
      expect(widest).toBeLessThanOrEqual(50);
    },
  );
});
