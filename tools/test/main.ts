/** Entry of `./neurovisor test`: the tests of this checkout. The npm package does not contain it. */
import { InvalidArgumentError } from 'commander';
import { perform } from '../../src/cli/definitions/perform.ts';
import { CAPABILITIES } from '../../test/support/capabilities.ts';
import { runTool, toolProgram } from '../tool-program.ts';
import { DELAYS_MS_MAX } from './delay-plan.ts';
import { LAYERS } from './layers.ts';
import { runTests, type TestFlags } from './run.ts';

const program = toolProgram('test')
  .description('Run the tests of this checkout.')
  .argument('[layers or paths...]', 'what to run (default: what each checkout must pass)')
  .option('--full', 'everything, with what takes hours: all cases of nested, coding agents, model servers')
  .option(
    '--delays <ms>',
    'delay file operations, timers, connections and ends of child processes at random, up to MS (6 finds most)',
    readDelays,
  )
  .showHelpAfterError('(neurovisor test --help lists the layers)')
  .addHelpText(
    'after',
    `
  ./neurovisor test                 does this checkout work on this machine?
  ./neurovisor test all             every layer: also delays, vm, e2e and the smoke of nested
  ./neurovisor test --full          also what takes hours
  ./neurovisor test unit src/egress/net    a layer, or the files whose path contains src/egress/net

Layers, in order: ${LAYERS.map(({ name }) => name).join(', ')}. If check, unit or guest fails, the rest is not run.
delays: some of inprocess, with --delays. nested: Linux guests under KVM, in an emulated host; a green run counts until
what it shows changes; skipped without Firecracker 1.16.1 or newer.

Environment:
  NEUROVISOR_SEED           seed of all random inputs (default: a new one, printed)
  NEUROVISOR_REQUIRE        capabilities whose tests may not be skipped, separated by commas:
                            ${CAPABILITIES.join(', ')}
  NEUROVISOR_UNSTEADY_LIST  file that unsteady tests are added to (default: cache/unsteady.jsonl in the home)`,
  )
  .action((words: string[], flags: TestFlags) => perform({}, (cli) => runTests(cli, words, flags)));

function readDelays(text: string): number {
  const ms = Number(text);
  if (Number.isInteger(ms) && ms >= 1 && ms <= DELAYS_MS_MAX) return ms;
  throw new InvalidArgumentError(`use a whole number of ms from 1 to ${DELAYS_MS_MAX}`);
}

await runTool(program);
