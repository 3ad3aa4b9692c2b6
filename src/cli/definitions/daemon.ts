/** The words for the daemon itself: `serve`, `host`, `pool`. */
import { type Command, Option } from 'commander';
import type { PoolFlags } from '../commands/host.ts';
import type { ServeFlags } from '../commands/serve.ts';
import type { TopFlags } from '../commands/top.ts';
import * as ranges from '../flags/ranges.ts';
import { SORTS } from '../top/picture.ts';
import { type OutputFlags, perform, performThere } from './perform.ts';
import {
  addSizeOptions,
  collect,
  jailOption,
  memoryMaxOption,
  output,
  vmmOption,
} from './shared-options.ts';

const load = () => import('../commands/host.ts');

export function addDaemon(program: Command): void {
  program
    .command('serve')
    .summary('run the daemon')
    .description(
      'Holds sandboxes until they are removed, keeps some ready, and serves them at a socket of this home: ' +
        '`create`, `exec` and the others use it, `run` starts faster with it. Stays in the foreground. ' +
        'Ctrl-C ends the sandboxes; those that are paused to disk stay and can be resumed later.\n\n' +
        'The key of the port is NEUROVISOR_API_KEY, or one that is made and kept in the home (api-key).',
    )
    .option('--pool <min[:max]>', 'sandboxes that wait to be taken, by demand; 0: none', '1:4')
    .option('--port <n>', 'listen at this port of 127.0.0.1 too, with an API key', ranges.port)
    .option('--model <name>', 'default model: a name of the model server, or a .gguf file')
    .addOption(jailOption())
    .addOption(vmmOption())
    .option(
      '--open-metrics',
      'let anybody on this machine read /metrics at the port, without a key',
    )
    .addOption(output())
    .addHelpText(
      'after',
      `
Examples:
  neurovisor serve
  neurovisor serve --pool 2:8 --port 7070
  curl -H "X-API-Key: $(cat ~/.neurovisor/api-key)" http://127.0.0.1:7070/v1/host
`,
    )
    .action((flags: Omit<ServeFlags, 'pool'> & { readonly pool: string } & OutputFlags) =>
      perform(flags, async (cli) => {
        const pool = ranges.pool(flags.pool);
        const { becomeDaemon } = await import('../daemon/become.ts');
        const release = await becomeDaemon(cli);
        const { serve } = await import('../commands/serve.ts');
        return await serve(cli, { ...flags, pool }, release);
      }),
    );

  program
    .command('host')
    .summary('tell what the daemon is doing')
    .description(
      'Tells which VMM and models the daemon uses, how many sandboxes it has, what is free. The daemon is ' +
        'the one of this home (NEUROVISOR_HOME), or that at NEUROVISOR_URL with NEUROVISOR_API_KEY.',
    )
    .addOption(output())
    .addHelpText(
      'after',
      `
Example:
  neurovisor host -o json
`,
    )
    .action((flags: OutputFlags) =>
      performThere(flags, async (cli, control) => (await load()).host(cli, control)),
    );

  program
    .command('top')
    .summary('watch the daemon and its sandboxes')
    .description(
      'Shows sandboxes with the phase and memory of their VMs, how long starts and tokens take, tokens, and ' +
        'what happens, again every second. In a pipe it prints one frame. A row is marked `!` when its VM holds ' +
        '90 % of its memory, `!!` at 98 %, and says when its guest is short of it: pressure, near oom, whom the ' +
        'kernel killed; the host is marked when its tasks wait for memory.',
    )
    .addOption(new Option('--sort <key>', 'order of the sandboxes').choices(SORTS))
    .option('--interval <time>', 'between frames (default 1s)', ranges.interval)
    .addOption(output())
    .addHelpText(
      'after',
      `
Keys: q quits, s sorts by another column, r turns the order, arrows and Page up/down scroll.

Examples:
  neurovisor top
  ssh host neurovisor top -o json
`,
    )
    .action((flags: TopFlags & OutputFlags) =>
      performThere(flags, async (cli, daemon) =>
        (await import('../commands/top.ts')).top(cli, daemon, flags),
      ),
    );

  const pool = program
    .command('pool')
    .summary('sandboxes that wait to be taken')
    .description(
      'The pool keeps sandboxes ready, so that `create` and `run` get one in milliseconds. How many wait ' +
        'is between a minimum and a maximum, by demand.',
    )
    .addHelpText(
      'after',
      `
Examples:
  neurovisor pool
  neurovisor pool set 2 8
  neurovisor pool set 1 4 --memory 1G --warm numpy
  neurovisor pool set 0 0
`,
    );
  pool
    .command('ls', { isDefault: true })
    .summary('list the pools')
    .description('Lists the pools, one per template, with what they have served.')
    .addOption(output())
    .action((flags: OutputFlags) =>
      performThere(flags, async (cli, control) => (await load()).poolList(cli, control)),
    );
  const set = pool
    .command('set')
    .summary('say how many wait')
    .description('Sets the limits of the pool of one template, which is built if need be.')
    .argument('<min>', 'so many wait whatever the demand', ranges.poolMin)
    .argument('<max>', 'more never wait', ranges.poolMax);
  addSizeOptions(set)
    .addOption(memoryMaxOption())
    .option('--warm <module>', 'imported instead of the default list', collect, [])
    .addOption(output())
    .action((min: number, max: number, flags: PoolFlags & OutputFlags) =>
      performThere(
        flags,
        async (cli, control) => (await load()).poolSet(cli, control, { min, max }, flags),
        async () => (await load()).checkPool({ min, max }, flags),
      ),
    );
}
