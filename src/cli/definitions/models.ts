/** Definitions of `neurovisor models`. */
import type { Command } from 'commander';
import { type OutputFlags, perform } from './perform.ts';
import { listCommand, output } from './shared-options.ts';

const load = () => import('../commands/models.ts');

export function addModels(program: Command): void {
  const models = program
    .command('models')
    .summary('show and test the model servers')
    .description(
      'Show and test the model servers of this host: those of models.toml in the home (NEUROVISOR_HOME) or of ' +
        'NEUROVISOR_MODELS, else that of NEUROVISOR_UPSTREAM or the local ones that are found. Keys are never shown.',
    )
    .addHelpText(
      'after',
      `
Examples:
  neurovisor models
  neurovisor models test qwen3
  neurovisor models ls -o json
`,
    );
  listCommand(models)
    .summary('list the model servers and their models')
    .description(
      'List each model server with its address, whether it is local or hosted elsewhere, its slots and its models, ' +
        'and the routes of models.toml. Exit status 1: a server does not answer.',
    )
    .addOption(output())
    .action((flags: OutputFlags) => perform(flags, async (cli) => (await load()).modelsList(cli)));
  models
    .command('test')
    .summary('ask models for a token')
    .description(
      'Ask each route of these models for a short answer, and show the time to its first token and the APIs whose ' +
        'paths the server has: chat, text, responses, messages, embeddings. A hosted service may charge for it. ' +
        'Exit status 1: a route does not answer.',
    )
    .argument(
      '[names...]',
      'models (default: all of models.toml; without it the first of each server)',
    )
    .addOption(output())
    .action((names: readonly string[], flags: OutputFlags) =>
      perform(flags, async (cli) => (await load()).modelsTest(cli, names)),
    );
}
