/** Definitions of `neurovisor tenant`. */
import type { Command } from 'commander';
import type { QuotaFlags } from '../commands/keys/tenant.ts';
import { type OutputFlags, perform } from './perform.ts';
import { collect, listCommand, modelBudgetOption, output } from './shared-options.ts';

const load = () => import('../commands/keys/tenant.ts');

export function addTenant(program: Command): void {
  const tenant = program
    .command('tenant')
    .summary('manage the quotas of tenants')
    .description(
      'Manage the quotas of tenants. The daemon applies each change at once; without a daemon, they are set in this ' +
        'home (NEUROVISOR_HOME). A tenant without quotas is unlimited. Keys: `neurovisor key`.',
    )
    .addHelpText(
      'after',
      `
Examples:
  neurovisor tenant set acme --sandboxes 20 --memory 16G --starts 5
  neurovisor tenant set acme --model-budget output=1M,cost=5,per=1d
  neurovisor tenant set acme --storage none
  neurovisor tenant set acme --allow-net 10.1.0.0/16 --allow-hosted gpt-5-mini
  neurovisor tenant inspect acme
`,
    );
  listCommand(tenant)
    .summary('list the tenants')
    .description('List the tenants with a key or quotas.')
    .addOption(output())
    .action((flags: OutputFlags) => perform(flags, async (cli) => (await load()).tenantList(cli)));
  tenant
    .command('inspect')
    .summary('show the quotas of a tenant and their use')
    .description('Show the quotas of a tenant and, if a daemon runs, their use.')
    .argument('<name>', 'name of the tenant')
    .addOption(output())
    .action((name: string, flags: OutputFlags) => perform(flags, async (cli) => (await load()).tenantShow(cli, name)));
  tenant
    .command('set')
    .summary('set quotas of a tenant')
    .description(
      'Set quotas of a tenant, and what its sandboxes may ask for. What is not named stays, and `none` removes it. A ' +
        'change ends no sandbox that already has more.',
    )
    .argument('<name>', 'name of the tenant')
    .option('--sandboxes <n>', 'sandboxes that have not ended, paused ones included')
    .option(
      '--memory <size>',
      'memory of running VMs, for example 16G; sandboxes that can grow count with their maximum',
    )
    .option('--starts <n>', 'starts of VMs per second, for example 5 or 0.5')
    .option('--storage <size>', 'disk space of snapshots and pauses, for example 100G')
    .addOption(modelBudgetOption())
    .option(
      '--allow-hosted <name>',
      'model of models.toml that another host may serve for the tenant; all: every one (repeatable)',
      collect,
    )
    .option(
      '--allow-net <block>',
      'addresses inside a private range that its network rules may open, for example 10.1.0.0/16 (repeatable)',
      collect,
    )
    .option(
      '--allow-field <path>',
      'field that its requests to the model may carry unchecked, for example enable_search (repeatable)',
      collect,
    )
    .addOption(output())
    .action((name: string, flags: QuotaFlags & OutputFlags) =>
      perform(flags, async (cli) => (await load()).tenantSet(cli, name, flags)),
    );
  tenant
    .command('rm')
    .summary('remove a tenant')
    .description(
      'Revoke the keys of a tenant, remove its quotas, and erase the key of its encrypted pauses and snapshots. ' +
        'Sandboxes stay.',
    )
    .argument('<name>', 'name of the tenant')
    .addOption(output())
    .action((name: string, flags: OutputFlags) =>
      perform(flags, async (cli) => (await load()).tenantRemove(cli, name)),
    );
}
