/** Definitions of `neurovisor tenant`. */
import { type Command, Option } from 'commander';
import type { QuotaFlags, TenantFlags } from '../commands/keys/tenant.ts';
import { type OutputFlags, perform } from './perform.ts';
import { collect, listCommand, modelBudgetOption, output } from './shared-options.ts';

const load = () => import('../commands/keys/tenant.ts');

const forAll = () => new Option('--default', 'for all tenants without their own setting');

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
  neurovisor tenant set --default --sandboxes 50
  neurovisor tenant set acme --sandboxes default
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
    .description(
      'Show the quotas of a tenant, which of them it inherits from --default and, if a daemon runs, their use.',
    )
    .argument('[name]', 'name of the tenant')
    .addOption(forAll())
    .addOption(output())
    .action((name: string | undefined, flags: TenantFlags & OutputFlags) =>
      perform(flags, async (cli) => (await load()).tenantShow(cli, name, flags)),
    );
  tenant
    .command('set')
    .summary('set quotas of a tenant')
    .description(
      'Set quotas of a tenant, and what its sandboxes may ask for. What is not named stays; `none` removes it; ' +
        '`default` is what --default has set. A change ends no sandbox that already has more.',
    )
    .argument('[name]', 'name of the tenant')
    .addOption(forAll())
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
    .option('--allow-model <pattern>', 'model that its sandboxes may use, for example qwen* (repeatable)', collect)
    .option(
      '--allow-image <pattern>',
      'container image by its complete name, for example docker.io/library/* (repeatable)',
      collect,
    )
    .option('--allow-template <pattern>', 'template that it may use beside its own (repeatable)', collect)
    .option(
      '--allow-login <host>',
      'registry or package index where this host logs in for it, for example ghcr.io (repeatable)',
      collect,
    )
    .option('--max-cpus <n>', 'CPUs of one sandbox')
    .option('--max-memory <size>', 'memory of one sandbox, for example 4G')
    .option('--max-disk <size>', 'disk of one sandbox, for example 10G')
    .option('--max-timeout <duration>', 'timeout of one sandbox, for example 2h; one without a timeout gets it')
    .addOption(output())
    .action((name: string | undefined, flags: QuotaFlags & TenantFlags & OutputFlags) =>
      perform(flags, async (cli) => (await load()).tenantSet(cli, name, flags)),
    );
  tenant
    .command('rm')
    .summary('remove a tenant')
    .description(
      'Revoke the keys of a tenant, end its sandboxes, remove its snapshots, quotas and use of budgets, and erase the ' +
        'key of its encrypted saves. Its audit logs stay; without a daemon, sandboxes and snapshots, too.',
    )
    .argument('<name>', 'name of the tenant')
    .addOption(output())
    .action((name: string, flags: OutputFlags) =>
      perform(flags, async (cli) => (await load()).tenantRemove(cli, name)),
    );
}
