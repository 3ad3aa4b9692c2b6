/** Definitions of `neurovisor key`. */
import type { Command } from 'commander';
import { DEFAULT_TENANT } from '../../api/tenants/limits.ts';
import type { KeyFlags } from '../commands/keys/key.ts';
import { parseDuration } from '../flags/options.ts';
import { type OutputFlags, perform } from './perform.ts';
import { listCommand, output } from './shared-options.ts';

const load = () => import('../commands/keys/key.ts');

export function addKey(program: Command): void {
  const key = program
    .command('key')
    .summary('manage the API keys of tenants')
    .description(
      'Manage the API keys of tenants. A tenant sees and changes only its own sandboxes and snapshots, at the port of ' +
        '`neurovisor serve --port` and with the clients of E2B. The daemon applies each change at once; without a ' +
        'daemon, the keys are set in this home (NEUROVISOR_HOME).\n\n' +
        "The unix socket and the daemon's own key (NEUROVISOR_API_KEY, or the file api-key) belong to the operator, who " +
        'sees all sandboxes.',
    )
    .addHelpText(
      'after',
      `
Examples:
  neurovisor key create --tenant acme --name ci --expires 90d
  neurovisor key ls
  neurovisor key rm 3f9a0c52d1be
`,
    );
  key
    .command('create')
    .summary('create a key')
    .description('Create a key and print it. The home stores only its digest, so keep the key: nothing shows it again.')
    .option('--tenant <name>', 'tenant that the key belongs to', DEFAULT_TENANT)
    .option('--name <label>', 'label for `neurovisor key ls`')
    .option('--expires <duration>', 'the daemon refuses it from then on: 12h, 30d (default: never)', parseDuration)
    .addOption(output())
    .action((flags: KeyFlags & OutputFlags) => perform(flags, async (cli) => (await load()).keyCreate(cli, flags)));
  listCommand(key)
    .summary('list the keys')
    .description('List the keys, without the keys themselves.')
    .addOption(output())
    .action((flags: OutputFlags) => perform(flags, async (cli) => (await load()).keyList(cli)));
  key
    .command('rm')
    .summary('revoke keys')
    .description('Revoke keys. The daemon refuses requests with them from now on; sandboxes stay.')
    .argument('<id...>', 'ids of keys (neurovisor key ls)')
    .addOption(output())
    .action((ids: string[], flags: OutputFlags) => perform(flags, async (cli) => (await load()).keyRevoke(cli, ids)));
}
