/**
 * The `neurovisor` command: parses the command line, runs one command, sets the exit status.
 *
 *     main.ts ─► definitions/  options, help; perform.ts ─► commands/  imported when they run
 *                                                             │
 *                                       top/  transfer/  daemon/  flags/  output/
 */

import { Command, CommanderError, Help } from 'commander';
import { ignore } from '../base/ignore.ts';
import { productName } from '../base/package-dir.ts';
import { addCommands } from './definitions/all.ts';
import { describe, helpWords, shownOptions } from './definitions/help.ts';
import { EXIT_USAGE } from './exit-status.ts';
import { printFailure, UsageError } from './failure.ts';
import { asksForJson } from './flags/asks-json.ts';

const words = process.argv.slice(2);
// Judged again once it is known which words are a program's.
let json = asksForJson(words);

const program = new Command('neurovisor')
  .description('Run AI agents in microVMs, with their models on the host.')
  .version(productName())
  .showSuggestionAfterError(false)
  .exitOverride()
  // In JSON mode stdout holds one object and nothing else. Errors are printed below, with a remedy.
  .configureOutput({ writeErr: (text) => void (json || process.stderr.write(text)), outputError: () => undefined })
  .configureHelp({
    visibleOptions(command) {
      return shownOptions(command, Help.prototype.visibleOptions.call(this, command));
    },
    // Descriptions name the choices themselves, and the empty default of a repeatable option says nothing.
    optionDescription: ({ description, defaultValue }) =>
      typeof defaultValue === 'string' ? `${description} (default: ${defaultValue})` : description,
  })
  .hook('preSubcommand', (_program, named) => describe(named));

// `--help | head`
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error) => ignore(error, 'the reader of our output left'));
}

try {
  await addCommands(program, words);
  const named = program.commands.find((one) => one.name() === words[0]);
  const parted = named === undefined ? words : await partedWords(named);
  json = asksForJson(parted);
  await program.parseAsync(helpWords(program, parted), { from: 'user' });
} catch (error) {
  if (error instanceof UsageError) {
    printFailure(error, json);
    process.exitCode = EXIT_USAGE;
  } else if (error instanceof CommanderError) {
    // `--help` and `--version` end with status 0, and have printed what is asked for.
    process.exitCode = error.exitCode === 0 ? 0 : EXIT_USAGE;
    const isGroup = error.code === 'commander.help';
    if (isGroup && json) printFailure(new UsageError('missing subcommand', 'see --help'), json);
    if (error.exitCode !== 0 && !isGroup) {
      const { suggestion } = await import('./flags/suggestion.ts');
      const remedy = suggestion(error.message, program, words);
      printFailure(new UsageError(error.message.replace(/^error: /, ''), remedy), json);
    }
  } else throw error;
}

/** Loaded only for commands that start a program: others would load it for nothing. */
async function partedWords(command: Command): Promise<readonly string[]> {
  if (command.name() !== 'run' && command.name() !== 'exec') return words;
  return (await import('./flags/program-words.ts')).withProgramWords(words, command);
}
