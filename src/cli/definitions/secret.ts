/** Definitions of `neurovisor secret`. */
import { type Command, Option } from 'commander';
import type { SecretFlags } from '../commands/secret.ts';
import { type OutputFlags, performThere } from './perform.ts';
import { listCommand, output } from './shared-options.ts';

const secrets = () => import('../commands/secret.ts');

export function addSecret(program: Command): void {
  const secret = program
    .command('secret')
    .summary('manage secrets')
    .description(
      'Manage secrets that outlive sandboxes. They are encrypted on disk and never shown. A sandbox gets a placeholder; ' +
        'its requests to the named hosts get the current value. (Preview.)',
    )
    .addHelpText(
      'after',
      `
Examples:
  neurovisor secret create API_KEY --from-env API_KEY
  neurovisor create --secret API_KEY@api.example.com
  neurovisor secret create API_KEY --replace < key.txt
`,
    );
  secret
    .command('create')
    .summary('store a secret')
    .description(
      'Store a secret, and print its name. Without --from-env and --from-file, read its value from standard input, ' +
        'without echo at a terminal.',
    )
    .argument('<name>', 'name of the secret, and of its variable in sandboxes')
    .option('--from-env <variable>', 'variable with the value')
    .addOption(new Option('--from-file <file>', 'file with the value').conflicts('fromEnv'))
    .option('--replace', 'replace the value of an existing secret; running sandboxes use it from their next request')
    .addOption(output())
    .action((name: string, flags: SecretFlags & OutputFlags) =>
      performThere(
        flags,
        async (cli, control) => (await secrets()).secretCreate(cli, control, name, flags),
        async () => (await secrets()).checkSecret(name),
      ),
    );
  listCommand(secret)
    .summary('list secrets')
    .description('List secrets, without their values, with the sandboxes that use them.')
    .addOption(output())
    .action((flags: OutputFlags) =>
      performThere(flags, async (cli, control) => (await secrets()).secretList(cli, control)),
    );
  secret
    .command('rm')
    .summary('remove secrets')
    .description('Remove secrets. A secret that a sandbox uses is kept.')
    .argument('<names...>', 'names of secrets')
    .option('--force', 'remove them even if sandboxes use them; their requests with the secret are then refused')
    .addOption(output())
    .action((names: string[], flags: OutputFlags & { readonly force?: boolean }) =>
      performThere(flags, async (cli, control) => (await secrets()).secretRemove(cli, control, names, flags)),
    );
}
