/**
 * The `neurovisor` command: parses the command line, runs one command, sets the exit status.
 *
 *     main.ts ─► definitions/  options, help; perform.ts ─► commands/  imported when they run
 *                                                             │
 *                                       top/  transfer/  daemon/  flags/  output/
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command, CommanderError, Help } from 'commander';
import { ignore } from '../base/ignore.ts';
import { addDaemon } from './definitions/daemon.ts';
import { describe, helpWords } from './definitions/help.ts';
import { addHistory } from './definitions/history.ts';
import { addInside } from './definitions/inside.ts';
import { addMachine } from './definitions/machine.ts';
import { addNet } from './definitions/net.ts';
import { addRun } from './definitions/run.ts';
import { addSandbox } from './definitions/sandbox.ts';
import { addSeccomp } from './definitions/seccomp.ts';
import { addTemplate } from './definitions/template.ts';
import { printFailure, UsageError } from './failure.ts';
import { asksForJson } from './flags/asks-json.ts';

const root = join(import.meta.dirname, '../..');
const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
  version: string;
};

const words = process.argv.slice(2);
const json = asksForJson(words);

const program = new Command('neurovisor')
  .description('Run AI agents in microVMs; their models stay on the host.')
  .version(version)
  .showHelpAfterError('(neurovisor --help shows what there is)')
  .exitOverride()
  // One object on stdout is all of it then; commander would write its text beside that.
  .configureOutput(json ? { writeErr: () => undefined } : {})
  .configureHelp({
    // A list that is empty as long as nothing is given is no default that says anything.
    optionDescription: (option) => {
      const isList = Array.isArray(option.defaultValue);
      return isList ? option.description : Help.prototype.optionDescription(option);
    },
  })
  .hook('preSubcommand', (_program, named) => describe(named));

program.commandsGroup('Scripts:');
addRun(program);
program.commandsGroup('Sandboxes of the daemon:');
addSandbox(program);
addInside(program);
addHistory(program);
addDaemon(program);
program.commandsGroup('This machine:');
addTemplate(program);
addMachine(program);
addNet(program);
addSeccomp(program);

// `--help | head`
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error) => ignore(error, 'the reader of our output left'));
}

try {
  await program.parseAsync(helpWords(program, words), { from: 'user' });
} catch (error) {
  if (error instanceof UsageError) {
    printFailure(error, json);
    process.exitCode = 2;
  } else if (error instanceof CommanderError) {
    // `--help` and `--version` are no errors; of others, commander has printed its message.
    process.exitCode = error.exitCode === 0 ? 0 : 2;
    if (json && error.exitCode !== 0) printFailure(wrongWords(error), json);
  } else throw error;
}

function wrongWords({ code, message }: CommanderError): UsageError {
  // Of a command that has others below it, and none of them was named.
  if (code === 'commander.help') return new UsageError('a command is missing', 'see --help');
  return new UsageError(message.replace(/^error: /, '').replaceAll('\n', ' '), 'see --help');
}
