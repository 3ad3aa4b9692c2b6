import { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { addCommands, DEFINITIONS } from './all.ts';

const namesOf = (program: Command) => program.commands.map((command) => command.name());

async function commandsOf(...words: string[]): Promise<readonly string[]> {
  const program = new Command('neurovisor');
  await addCommands(program, words);
  return namesOf(program);
}

describe('DEFINITIONS', () => {
  it.each(DEFINITIONS)('lists what its file defines: $names', async ({ names, load }) => {
    const program = new Command('neurovisor');
    (await load())(program);
    expect(namesOf(program)).toEqual(names);
  });
});

describe('addCommands', () => {
  const all = DEFINITIONS.flatMap(({ names }) => names);

  it('adds only the commands of the file that defines the first word', async () => {
    expect(await commandsOf('exec', 'run')).toEqual(['exec', 'attach', 'wait', 'shell', 'cp', 'port', 'ps']);
  });

  it.each([[[]], [['--help']], [['help', 'ls']], [['frob']]])(
    'adds all commands in the order of the help for %j',
    async (words) => {
      expect(await commandsOf(...words)).toEqual(all);
    },
  );
});
