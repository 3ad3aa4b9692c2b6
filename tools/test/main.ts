/** What `./neurovisor test` starts: the tests of this checkout. The npm package does not contain it. */
import { Command, CommanderError } from 'commander';
import { perform } from '../../src/cli/definitions/perform.ts';
import { EXIT_USAGE } from '../../src/cli/exit-status.ts';
import { CAPABILITIES } from '../../test/support/capabilities.ts';
import { LAYERS } from './layers.ts';
import { runTests } from './run.ts';

const program = new Command('neurovisor test')
  .description('Run the tests of this checkout.')
  .argument('[layers or paths...]', 'what to run (default: everything)')
  .option(
    '--full',
    'nested: add the proofs that take minutes each, and all cases of the drivers; component: coding agents, model servers',
  )
  .exitOverride()
  .showHelpAfterError('(neurovisor test --help lists the layers)')
  .addHelpText(
    'after',
    `
Layers, in order: ${LAYERS.map(({ name }) => name).join(', ')}. If check, unit or guest fails, the rest is not run.
nested: Linux guests under KVM, in an emulated host; skipped without Firecracker 1.16.1 or newer.
A path runs the test files that contain it: ./neurovisor test src/net test/component/jail.test.ts

Environment:
  NEUROVISOR_SEED           seed of all random inputs (default: a new one, printed)
  NEUROVISOR_REQUIRE        capabilities whose tests may not be skipped, separated by commas:
                            ${CAPABILITIES.join(', ')}
  NEUROVISOR_UNSTEADY_LIST  file that unsteady tests are added to (default: cache/unsteady.jsonl in the home)`,
  )
  .action((words: string[], { full = false }: { full?: boolean }) =>
    perform({}, (cli) => runTests(cli, words, full)),
  );

try {
  await program.parseAsync(process.argv.slice(2), { from: 'user' });
} catch (error) {
  if (!(error instanceof CommanderError)) throw error;
  process.exitCode = error.exitCode === 0 ? 0 : EXIT_USAGE;
}
