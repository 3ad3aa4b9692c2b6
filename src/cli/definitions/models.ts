/** Definitions of `neurovisor models`. */
import type { Command } from 'commander';
import type { PullFlags } from '../commands/models/pulled.ts';
import { type OutputFlags, perform, performHere } from './perform.ts';
import { listCommand, output } from './shared-options.ts';

const load = () => import('../commands/models/servers.ts');
const loadPulled = () => import('../commands/models/pulled.ts');

export function addModels(program: Command): void {
  const models = program
    .command('models')
    .summary('show model servers, and fetch models')
    .description(
      'Show and test the model servers of this host: those of models.toml in the home (NEUROVISOR_HOME) or of ' +
        'NEUROVISOR_MODELS, else that of NEUROVISOR_UPSTREAM or the local ones that are found. Keys are never shown.\n\n' +
        'Without a model server, the built-in engine runs models in the GGUF format. Fetch them with: neurovisor models pull',
    )
    .addHelpText(
      'after',
      `
Examples:
  neurovisor models
  neurovisor models test qwen3
  neurovisor models pull ai/smollm2
  neurovisor run --model smollm2 agent.py
  neurovisor models ls -o json
`,
    );
  listCommand(models)
    .summary('list the model servers and their models')
    .description(
      'List each model server with its address, whether it is local or hosted elsewhere, its slots and its models, ' +
        'and the routes of models.toml; then the models that were pulled, with size and quantization. ' +
        'With NEUROVISOR_URL, list only the models that were pulled there. ' +
        'Exit status 1: a server does not answer.',
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
    .argument('[names...]', 'models (default: all of models.toml; without it the first of each server)')
    .addOption(output())
    .action((names: readonly string[], flags: OutputFlags) =>
      performHere(flags, async (cli) => (await load()).modelsTest(cli, names)),
    );
  models
    .command('pull')
    .summary('fetch a model for the built-in engine')
    .description(
      'Fetch a GGUF model for the built-in engine: from a file, from a directory such as a snapshot of Hugging Face, or from a ' +
        'registry, in the layouts of Docker Model Runner, CNCF ModelPack, ORAS and Ollama. Models in several parts are fetched whole. ' +
        'Credentials are those of docker login; mirrors are configured as for skopeo. A pull that is interrupted leaves nothing.',
    )
    .argument('<ref>', 'PATH, NAME[:TAG], NAME@sha256:DIGEST or oci:DIRECTORY[:TAG]')
    .option('--name <name>', 'name of the model here (default: made from REF)')
    .option('--file <name>', 'which of several GGUF files: its name, or text that only it has')
    .addHelpText(
      'after',
      `
Examples:
  neurovisor models pull ai/smollm2
  neurovisor models pull registry.ollama.ai/library/qwen3:0.6b --name qwen
  neurovisor models pull ./snapshot --file Q4_K_M
`,
    )
    .addOption(output())
    .action((ref: string, flags: OutputFlags & PullFlags) =>
      perform(flags, async (cli) => (await loadPulled()).modelsPull(cli, ref, flags)),
    );
  models
    .command('rm')
    .summary('remove pulled models')
    .description('Remove pulled models. An engine that runs one keeps it until it ends.')
    .argument('<names...>', 'names, as neurovisor models ls shows them')
    .addOption(output())
    .action((names: string[], flags: OutputFlags) =>
      perform(flags, async (cli) => (await loadPulled()).modelsRemove(cli, names)),
    );
}
