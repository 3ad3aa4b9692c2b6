/** Options that several commands share. */
import { type Command, Option } from 'commander';
import { JAIL_MODES } from '../../base/config.ts';
import { MODEL_PRIORITIES } from '../../base/request/model-limits.ts';
import { DEFAULTS } from '../../sandbox/contract/limits.ts';
import { parseModelCache } from '../flags/model-cache.ts';
import * as ranges from '../flags/ranges.ts';

type Size = { readonly [K in keyof typeof DEFAULTS]: number };

/** Without a default, an option that is not given stays undefined. */
export const collect = (value: string, previous: readonly string[] = []): string[] => [...previous, value];

/** `--model-budget` of a tenant or the host. */
export const modelBudgetOption = (): Option =>
  new Option(
    '--model-budget <limits>',
    'what its sandboxes together may use of the models, for example output=5M,requests=20000,cost=20,per=1d (cost in ' +
      'dollars), or none; replaces all of it (repeatable)',
  ).argParser(collect);

/** The argument of commands for one sandbox. */
export const SANDBOX = ['<id>', 'sandbox ID, or a unique prefix of it'] as const;

export const output = (): Option =>
  new Option('-o, --output <format>', 'output format: text or json (default: text)').choices(['text', 'json']);

/** The subcommand `ls` of a group, which the group runs without a word. Another word is an unknown command, not an argument of `ls`. */
export const listCommand = (group: Command): Command =>
  group
    .command('ls', { isDefault: true })
    .allowExcessArguments()
    .hook('preAction', (ls) => {
      const [word] = ls.args;
      if (word === undefined) return;
      const isNamed = group.args[0] === 'ls';
      const message = isNamed ? `unexpected argument '${word}'` : `unknown command '${word}'`;
      ls.error(`error: ${message}`);
    });

/** `--jail` */
export const jailOption = (): Option =>
  new Option(
    '--jail <mode>',
    'jail of the VMMs: auto (limits only where the host has control groups), enforce (all of it, or no VM starts), log (allow forbidden system calls and log them) or off (default: auto)',
  ).choices(JAIL_MODES);

export const recordOption = (): Option =>
  new Option(
    '--record <file>',
    'record all requests to models and their answers in this file, which is replaced if it is a cassette',
  );

export const replayOption = (): Option =>
  new Option('--replay <file>', 'answer all requests to models from this cassette; no model is asked');

/** `--allow-field` */
export const allowFieldOption = (): Option =>
  new Option(
    '--allow-field <path>',
    'let requests to the model carry this field, for example enable_search, unchecked (repeatable)',
  )
    .argParser(collect)
    .default([], 'none');

/** `--memory-max`, for sandboxes that stay. */
export function memoryMaxOption(): Option {
  return new Option(
    '--memory-max <size>',
    'grow the guest memory in steps up to this size under memory pressure (default: no growth)',
  );
}

export function cardOption(): Option {
  return new Option(
    '--card',
    'with Firecracker: for sandboxes with a network, since it adds no network card to a clone',
  );
}

/** `-w`, `--workdir` */
export const WORKDIR = [
  '-w, --workdir <dir>',
  'working directory in the guest (default: home of the guest user)',
] as const;

/** `--cpus`, `--memory`, `--disk`. @param size without them */
export function addSizeOptions(command: Command, size: Size = DEFAULTS): Command {
  const { cpus, memoryMib, diskMib } = size;
  return command
    .option('--cpus <n>', `number of virtual CPUs (default: ${cpus})`, ranges.cpus)
    .option('--memory <size>', `guest memory, for example 512M or 2G (default: ${ranges.mebibytes(memoryMib)})`)
    .option('--disk <size>', `writable disk space of the guest (default: ${ranges.mebibytes(diskMib)})`);
}

/** `--template` */
export const TEMPLATE = [
  '--template <name>',
  'start from this template (neurovisor template ls), built again if it is out of date; it fixes size, modules and packages',
] as const;

/** `--build-arg` */
export const BUILD_ARG = ['--build-arg <name=value>', 'value for an ARG of the Dockerfile (repeatable)'] as const;

/** `--target` */
export const TARGET = ['--target <stage>', 'stage of the Dockerfile to build (default: the last)'] as const;

/** `--vmm` */
export function vmmOption(): Option {
  return new Option(
    '--vmm <name>',
    'VMM that runs the microVM: auto (Firecracker with KVM and where it is installed, otherwise QEMU), firecracker or qemu (default: auto)',
  ).choices(['auto', 'firecracker', 'qemu']);
}

export const RATE = [
  '--rate <bytes>',
  'channel bandwidth in each direction, bytes per second, for example 5M, or none',
] as const;

/** `--model-budget` of a sandbox. */
export const MODEL_BUDGET = [
  '--model-budget <limits>',
  'budget for models, shared with forks, for example input=1M,output=200k,requests=500,cost=5,rate=50k,per=1d (cost in dollars; rate: tokens per minute), or none; without per, for the whole life',
] as const;

export const DISK_LIMIT = [
  '--disk-limit <limits>',
  'disk limits, reads and writes together, for example rate=20M,iops=500, or none',
] as const;

/** The options of a new sandbox, for `run` and `create`. */
export function addSandboxOptions(command: Command): Command {
  addSizeOptions(command)
    .addOption(imageOption())
    .option(
      '--build <dir>',
      'build the Dockerfile of this directory, unless nothing has changed, and run in the result instead of --image',
    )
    .option(...BUILD_ARG, collect, [])
    .option(...TARGET)
    .option('--alias <ASKED=OFFERED>', 'serve requests for model ASKED with model OFFERED', collect, [])
    .option('--allow-model <name>', 'restrict the guest to this model (repeatable)', collect, [])
    .option(
      '--allow-hosted <name>',
      'let prompts for this model leave the host, if models.toml says that it is served elsewhere; all: for every model (repeatable)',
      collect,
      [],
    )
    .addOption(allowFieldOption())
    .addOption(
      new Option(
        '--model-priority <priority>',
        'place in the queue of a busy model server: interactive, normal or batch (default: normal)',
      ).choices(MODEL_PRIORITIES),
    )
    .option(...MODEL_BUDGET, collect, [])
    .option(
      '--model-cache <ttl>',
      'answer equal requests from a cache for this time, for example 10m: those with temperature 0 or a seed and no tools, and embeddings; 10m,all: every request (default: none)',
      parseModelCache,
    )
    .option('--warm <module>', 'Python module to import before the script starts (repeatable)', collect, [])
    .option(...RATE)
    .option(...DISK_LIMIT, collect, []);
  addRequirementOptions(command);
  addPackageOptions(command);
  return addNetworkOptions(command, ' (default: none)');
}

export function imageOption(): Option {
  return new Option(
    '--image <reference>',
    'container image to run in, for example python:3.13-slim; pulled if it is not here (default: the built-in system)',
  );
}

/** `--with`, `--requirements` */
export function addRequirementOptions(command: Command): Command {
  return command
    .option(
      '--with <packages>',
      'Python packages to install, for example pandas,matplotlib or "numpy<2"; the template with them is built once (repeatable)',
      collect,
      [],
    )
    .option(
      '--requirements <path>',
      'install what a requirements file, a pyproject.toml (with its uv.lock) or a directory with one names (repeatable)',
      collect,
      [],
    );
}

/** `--packages`, `--packages-allow`, `--packages-deny`, `--packages-min-age`, `--packages-lock` */
/** Also for the packages of `--with` and `--requirements`. */
export const PACKAGES_MIN_AGE = [
  '--packages-min-age <time>',
  'hide versions of packages that are younger than this, for example 7d; also from --with and --requirements (default: none)',
] as const;

/** @param none ends the help of `--packages` */
export function addPackageOptions(command: Command, none = 'separated by commas (default: none)'): Command {
  return command
    .option(
      '--packages <kinds>',
      `let the guest install packages from this host's indexes, without a network: pip, npm, go, cargo, apt, ${none}`,
      collect,
      [],
    )
    .option(
      '--packages-allow <names>',
      'restrict packages to these names, for example numpy, pip:torch or npm:@types/* (repeatable)',
      collect,
      [],
    )
    .option('--packages-deny <names>', 'refuse these packages; overrides --packages-allow (repeatable)', collect, [])
    .option(...PACKAGES_MIN_AGE)
    .option(
      '--packages-lock <file>',
      'restrict packages to the files whose digests this lock file has: requirements.txt, uv.lock, package-lock.json or Cargo.lock (repeatable)',
      collect,
      [],
    );
}

/** `--net`, `--allow-out`, `--deny-out`, `--net-limit`, `--secret` */
export function addNetworkOptions(command: Command, byDefault = ''): Command {
  return command
    .addOption(
      new Option('--net <mode>', `network of the guest: none, egress or open${byDefault}`).choices([
        'none',
        'egress',
        'open',
      ]),
    )
    .option(
      '--allow-out <rule>',
      'allow outbound connections that match the rule; implies --net egress (repeatable)',
      collect,
      [],
    )
    .option(
      '--deny-out <rule>',
      'deny outbound connections that match the rule; overrides --allow-out (repeatable)',
      collect,
      [],
    )
    .option(
      '--net-limit <limits>',
      'network limits, for example bytes=1G,up=5M,down=20M,connections=100,api.example.com=10M, or none',
      collect,
      [],
    )
    .option(
      '--secret <NAME@host>',
      'let the guest use the value of variable NAME at this host, without seeing it; NAME@host:PLACE restricts where (repeatable)',
      collect,
      [],
    );
}

/** Follows the options in the help of the same commands. */
export const NETWORK_HELP = `
Network modes:
  none     no network; models stay reachable
  egress   only what --allow-out lists
  open     the internet, except what --deny-out lists
Metadata services and private addresses are blocked in every mode; --allow-out with a block inside a private
range opens that block. A network needs root: run the daemon as root, or this command if there is no daemon.

Rules match a name, an address or a block, with an optional :port, :first-last, /tcp or /udp:
  pypi.org   *.example.com   192.0.2.7   192.0.2.0/24:443   192.0.2.1:53/udp   db.example.com:5432
A name without a port means TCP ports 80 and 443. To match single requests by method and path (and the paths below it):
  'GET,HEAD https://api.example.com/v1/'   https://api.example.com/v1/chat   'WEBSOCKET https://*.example.com/live'
For these names only, the host decrypts TLS, with a certificate that the guest trusts.

Network limits:
  bytes=SIZE         total bytes, both directions, for the life of the sandbox; then connections are reset
  up=RATE down=RATE  bytes per second from and to the guest
  connections=N      concurrent connections
  NAME=SIZE          total bytes with one name (*.NAME: all names below it) on ports 80 and 443

Secrets:
  --secret NAME@api.example.com            the value of NAME in this environment
  --secret NAME@a.example,b.example        the same, for several hosts
  --secret NAME@api.example.com=FILE       the content of a file
  --secret NAME@api.example.com:header=X-My-Key,query=key
                                           in this header field or query parameter only
In the guest, NAME holds a placeholder. The host replaces it with the value in HTTPS requests to that host: without a
place, in credential fields such as Authorization and X-Api-Key. A placeholder elsewhere, or another credential in
the same request, is refused with 403.
--secret also allows its host. Without --net and rules, nothing else is allowed.
`;
