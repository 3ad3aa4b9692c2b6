/** Entry of `./neurovisor fuzz`: the fuzzers of this checkout. The npm package does not contain it. */
import { perform } from '../../src/cli/definitions/perform.ts';
import { runTool, toolProgram } from '../tool-program.ts';
import { type FuzzFlags, runFuzz } from './run.ts';

const program = toolProgram('fuzz')
  .description('Fuzz the parsers of hostile bytes, guided by coverage.')
  .argument('[targets...]', 'what to fuzz; `all` is every target but the programs that --list names')
  .option('--list', 'list the targets and the inputs kept for each')
  .option('--time <time>', 'time per target, for example 90s or 1h', '1m')
  .option('--seed <number>', 'seed of all random choices (default: a new one, printed)')
  .option('--jobs <count>', 'threads: of one target, or targets side by side', '1')
  .option('--minimize', 'keep the fewest inputs that reach what all known ones reach')
  .option('--replay', 'run the kept inputs once, without instrumentation')
  .showHelpAfterError('(neurovisor fuzz --list names the targets)')
  .addHelpText(
    'after',
    `
Inputs that reach something new are kept in cache/fuzz/ of the home, and are where the next run starts. --minimize
writes the best of them to test/fuzz/corpus/. An input that fails is saved in test/fuzz/crashers/.
Ctrl-C ends a run and keeps what it has found. The exit status is 1 if an input fails.`,
  )
  .action((names: string[], flags: FuzzFlags) => perform({}, (cli) => runFuzz(cli, names, flags)));

await runTool(program);
