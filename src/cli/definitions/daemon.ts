/** Definitions of the daemon's commands: `serve`, `host`, `top`, `pool`, `config`. */
import { type Command, Option } from 'commander';
import { LOG_LEVELS, MEMORY_SHARING, MEMORY_SHORT, ON_STOP } from '../../base/config.ts';
import { CONTENT_MODES } from '../../base/text/content-mode.ts';
import type { HostFlags, PoolFlags } from '../commands/host.ts';
import type { ServeFlags } from '../commands/serve.ts';
import type { TopFlags } from '../commands/top.ts';
import { ALLOW_FIELD_TEXT, parseCacheSize } from '../flags/model-fields.ts';
import { PACKAGES_MIN_AGE } from '../flags/package-fields.ts';
import * as ranges from '../flags/ranges.ts';
import { IMAGE, REQUIREMENTS, SIZE } from '../flags/sandbox-fields.ts';
import { SORTS } from '../top/picture.ts';
import { addConfig } from './config.ts';
import { moreOptionsText, sortOptions } from './help.ts';
import { type OutputFlags, perform, performAlone, performThere } from './perform.ts';
import {
  addFields,
  cardOption,
  collect,
  jailOption,
  listCommand,
  modelBudgetOption,
  optionOf,
  output,
  recordOption,
  replayOption,
  vmmOption,
} from './shared-options.ts';

const load = () => import('../commands/host.ts');

export function addDaemon(program: Command): void {
  const serve: Command = program
    .command('serve')
    .summary('run the daemon')
    .description(
      'Run the daemon in the foreground. It holds sandboxes until they are removed, keeps a warm pool, and ' +
        'listens on a unix socket in its home directory (NEUROVISOR_HOME). `create`, `exec` and most other ' +
        'commands need it; `run` starts faster with it. Ctrl-C pauses all sandboxes to disk, and the next daemon ' +
        'resumes those that ran; a second Ctrl-C ends those that are not paused yet.\n\n' +
        'With --port, clients must send an API key: NEUROVISOR_API_KEY, or else the generated one in the file ' +
        'api-key of the home directory. Programs that use E2B can be pointed at the port: docs/e2b.md.',
    )
    .optionsGroup('Where it listens:')
    .option('--port <n>', 'also listen on this port of 127.0.0.1, with an API key', ranges.port)
    .option('--host <address>', 'listen on this address of the machine instead of 127.0.0.1')
    .option('--tls-cert <file>', 'serve the port with TLS: certificate and chain, PEM')
    .option('--tls-key <file>', 'private key of the certificate, PEM')
    .option('--plain-http', 'allow a --host other than loopback without TLS')
    .option('--domain <name[:port]>', 'names of sandboxes end with this: PORT-ID.NAME')
    .option('--open-metrics', 'serve /metrics on the port without an API key')
    .optionsGroup('Models:')
    .option('--model <name>', 'default model: a name on the model server, a pulled model, or a .gguf file')
    .option(
      '--model-budget <limits>',
      'set the budget for models of all sandboxes together, as `neurovisor host set` does (default: the one of the home)',
      collect,
      [],
    )
    .option(
      '--model-cache-size <size>',
      'memory for answers that sandboxes with --model-cache get again; none: nothing is kept (default: 256M)',
      parseCacheSize,
    )
    .addOption(optionOf(ALLOW_FIELD_TEXT))
    .addOption(recordOption())
    .addOption(replayOption())
    .addOption(
      new Option(
        '--audit-content <mode>',
        'what the audit log keeps of requests to models and their answers: off, hash, redacted or full (default: off)',
      ).choices(CONTENT_MODES),
    )
    .optionsGroup('Size and time:')
    .addOption(
      new Option(
        '--memory-sharing <mode>',
        'whose sandboxes share their template’s memory until they write to it: those of one tenant (share), of all tenants (share-all), ' +
          'or nobody’s (copy) (default: share)',
      ).choices(MEMORY_SHARING),
    )
    .addOption(
      new Option(
        '--memory-short <action>',
        'what to do while the memory of the host is short: pause sandboxes to disk, idle ones first (pause), or only refuse starts and ' +
          'growth (refuse) (default: pause)',
      ).choices(MEMORY_SHORT),
    )
    .addOption(
      new Option(
        '--on-stop <action>',
        'what to do with running sandboxes at Ctrl-C or SIGTERM: pause them to disk for the next daemon, or end them ' +
          '(default: pause)',
      ).choices(ON_STOP),
    )
    .option(
      '--pool <min[:max]>',
      'minimum and maximum number of idle sandboxes in the warm pool; 0 disables it',
      poolText,
      '1:4',
    )
    .optionsGroup('How it runs:')
    .option('--config <file>', 'file with settings (default: neurovisor.toml in the home, if there is one)')
    .addOption(
      new Option('--log-level <level>', 'what the log shows: error, warn, info or debug (default: warn)').choices(
        LOG_LEVELS,
      ),
    )
    .addOption(jailOption())
    .addOption(vmmOption())
    .addOption(output())
    .addHelpText('after', () => moreOptionsText(serve))
    .addHelpText(
      'after',
      `
Examples:
  neurovisor serve
  neurovisor serve --pool 2:8 --port 7070
  neurovisor serve --port 443 --host 0.0.0.0 --tls-cert c.pem --tls-key k.pem --domain box.example.org
  curl -H "X-API-Key: $(cat ~/.neurovisor/api-key)" http://127.0.0.1:7070/v1/host
`,
    )
    .action(async () => {
      // First: also a daemon that does not start shows that the launcher tries again.
      const { beginWatchdog } = await import('../../host/daemon/service-manager.ts');
      const watchHealth = beginWatchdog(process.env);
      const { applySettings } = await import('../flags/settings.ts');
      await applySettings(serve, process.env);
      const flags = serve.opts<Omit<ServeFlags, 'pool'> & { readonly pool: string } & OutputFlags>();
      await performAlone(flags, async (cli) => {
        const pool = ranges.pool(flags.pool);
        const { becomeDaemon } = await import('../daemon/become.ts');
        const release = await becomeDaemon(cli);
        const { serve: run } = await import('../commands/serve.ts');
        return await run(cli, { ...flags, pool }, { release, watchHealth });
      });
    });

  sortOptions(serve, [
    '--pool',
    '--port',
    '--host',
    '--tls-cert',
    '--tls-key',
    '--domain',
    '--model',
    '--model-budget',
    '--audit-content',
    '--config',
    '--jail',
    '--vmm',
    '--output',
  ]);

  const host = program
    .command('host')
    .summary('show the status of the daemon')
    .description(
      'Show the VMM, the models, the number of sandboxes and the free memory of the daemon. The daemon is the ' +
        'one at NEUROVISOR_URL (with NEUROVISOR_API_KEY), or else the one of this home (NEUROVISOR_HOME).',
    )
    .addOption(output())
    .addHelpText(
      'after',
      `
Example:
  neurovisor host -o json
`,
    )
    .action((flags: OutputFlags) => performThere(flags, async (cli, control) => (await load()).host(cli, control)));
  host
    .command('set')
    .summary('set the budget of all sandboxes')
    .description(
      'Set what all sandboxes together may use of the models, beside their own budgets and those of their tenants. A ' +
        'change holds at once. Without a daemon, it is set in this home (NEUROVISOR_HOME).',
    )
    .addOption(modelBudgetOption())
    .addOption(output())
    .addHelpText(
      'after',
      `
Examples:
  neurovisor host set --model-budget output=10M,cost=20,per=1d
  neurovisor host set --model-budget none
`,
    )
    .action((_: HostFlags & OutputFlags, command: Command) => {
      // The command above has -o, too, and gets it if it comes first.
      const flags: HostFlags & OutputFlags = command.optsWithGlobals();
      return perform(flags, async (cli) => (await load()).hostSet(cli, flags));
    });

  program
    .command('top')
    .summary('watch the daemon and its sandboxes')
    .description(
      'Show a live view: the sandboxes with the phase and memory of their VMs, start and token latencies, ' +
        'token counts, and events. In a pipe, print one frame.\n\n' +
        'A row is marked `!` when its VM uses 90 % of its memory and `!!` at 98 %. It also shows memory ' +
        'pressure, near OOM and OOM kills in the guest. The host is marked when its tasks stall on memory.',
    )
    .addOption(
      new Option('--sort <key>', 'sort order of the sandboxes: memory, tokens, age or id (default: memory)').choices(
        SORTS,
      ),
    )
    .option('--interval <time>', 'time between frames (default: 1s)', ranges.interval)
    .addOption(output())
    .addHelpText(
      'after',
      `
Keys: q to quit, s to sort by the next column, r to reverse the order, arrows and Page Up/Down to scroll.

Examples:
  neurovisor top
  ssh host neurovisor top -o json
`,
    )
    .action((flags: TopFlags & OutputFlags) =>
      performThere(flags, async (cli, daemon) => (await import('../commands/top.ts')).top(cli, daemon, flags)),
    );

  const pool = program
    .command('pool')
    .summary('manage warm pools')
    .description(
      'Manage warm pools. A pool keeps idle sandboxes ready, so that `create` and `run` get one in ' +
        'milliseconds. The number of idle sandboxes follows demand, between a minimum and a maximum.',
    )
    .addHelpText(
      'after',
      `
Examples:
  neurovisor pool
  neurovisor pool set 2 8
  neurovisor pool set 1 4 --memory 1G --warm numpy
  neurovisor pool set 1 4 --template data
  neurovisor pool set 0 0
`,
    );
  listCommand(pool)
    .summary('list the pools')
    .description('List the pools, one per template, with their hits and misses.')
    .addOption(output())
    .action((flags: OutputFlags) => performThere(flags, async (cli, control) => (await load()).poolList(cli, control)));
  const set = pool
    .command('set')
    .summary('set the size of a pool')
    .description('Set the minimum and maximum of the pool of one template. Build the template if it does not exist.')
    .argument('<min>', 'minimum number of idle sandboxes', ranges.poolMin)
    .argument('<max>', 'maximum number of idle sandboxes', ranges.poolMax);
  addFields(set, [...SIZE, { options: [IMAGE] }, REQUIREMENTS, { options: [PACKAGES_MIN_AGE] }])
    .addOption(cardOption())
    .option('--warm <module>', 'Python module to import instead of the default list (repeatable)', collect, [])
    .option(
      '--template <name>',
      'pool of this template (neurovisor template ls), instead of size, modules and packages',
    )
    .addOption(output())
    .action((min: number, max: number, flags: PoolFlags & OutputFlags) =>
      performThere(
        flags,
        async (cli, control) => (await load()).poolSet(cli, control, { min, max }, flags),
        async () => (await load()).checkPool({ min, max }, flags),
      ),
    );
  addConfig(program, serve);
}

/** Read again with the rest. */
function poolText(text: string): string {
  ranges.pool(text);
  return text;
}
