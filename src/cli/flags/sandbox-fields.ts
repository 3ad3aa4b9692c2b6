/** Options of a new sandbox, for `run`, `create` and what sandboxes start from. */

import type { ChannelLimits } from '../../base/channel.ts';
import type { DiskLimits } from '../../base/request/disk-limits.ts';
import type { CreateRequest, MemoryAction } from '../../sandbox/contract/control.ts';
import { DEFAULTS, RANGES } from '../../sandbox/contract/limits.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { type Field, type FieldGroups, type OptionText, part, type Row, readFields } from './field.ts';
import type { BuildFlags, ImageFlags } from './image-flag.ts';
import { DEFAULT_MODEL, MODEL_FIELDS } from './model-fields.ts';
import { NETWORK, type NetworkFlags } from './network-fields.ts';
import { isNone, type LimitWord, parseCount, parseEnv, parseLimits, parsePairs, parseRate } from './options.ts';
import { PACKAGES, type PackageFlags } from './package-fields.ts';
import { sandboxName } from './pick.ts';
import * as ranges from './ranges.ts';
import type { RequirementFlags } from './requirement-flags.ts';

const ENV: Row<CreateRequest> = {
  flags: '-e, --env <NAME=VALUE>',
  help: 'environment variable; NAME alone passes on its value here (repeatable)',
  field: 'env',
  parseAll: parseEnv,
};

export const IMAGE: OptionText = {
  flags: '--image <reference>',
  help: 'container image to run in, for example python:3.13-slim; pulled if it is not here (default: the built-in system)',
};
const BUILD: OptionText = {
  flags: '--build <dir>',
  help: 'build the Dockerfile of this directory, unless nothing has changed, and run in the result instead of --image',
};

const VOLUMES: Row<CreateRequest> = {
  flags: '--volume <NAME:PATH>',
  help: 'mount a volume (neurovisor volume) at an absolute path, for example data:/data, or data:/data:ro to only read it (repeatable)',
  field: 'volumes',
  parseAll: (texts) => texts.map(volumeMount),
};

/** @throws UsageError */
function volumeMount(text: string): NonNullable<CreateRequest['volumes']>[number] {
  const [, name, path, mode] = /^([^:]+):(\/[^:]*)(?::(ro|rw))?$/.exec(text) ?? [];
  if (name !== undefined && path !== undefined) return { name, path, ...(mode === 'ro' ? { readOnly: true } : {}) };
  throw new UsageError(`--volume ${text}: expected NAME:/PATH or NAME:/PATH:ro`);
}

/** What the sandbox starts from. @param boot what `--boot` does */
const origin = (boot: string): readonly Field<CreateRequest>[] => [
  { options: [IMAGE, BUILD] },
  {
    options: [
      {
        flags: '--template <name>',
        help: 'start from this template (neurovisor template ls), built again if it is out of date; it fixes size, modules and packages',
      },
    ],
    read: templateOption,
  },
  { flags: '--boot', help: boot, field: 'boot', value: true },
];

/** Python packages: a command reads their files before its request. */
export const REQUIREMENTS: Field<CreateRequest> = {
  options: [
    {
      flags: '--with <packages>',
      help: 'Python packages to install, for example pandas,matplotlib or "numpy<2"; the template with them is built once (repeatable)',
      isRepeatable: true,
    },
    {
      flags: '--requirements <path>',
      help: 'install what a requirements file, a pyproject.toml (with its uv.lock) or a directory with one names (repeatable)',
      isRepeatable: true,
    },
  ],
};

const WARM: Row<CreateRequest> = {
  flags: '--warm <module>',
  help: 'Python module to import before the script starts (repeatable)',
  field: 'warm',
  parseAll: (modules) => modules,
};

type Size = { readonly [Name in keyof typeof DEFAULTS]: number };
type SizeOptions = Pick<CreateRequest, keyof Size | 'memoryMaxMib'>;

/** @param size without the options. @param growth what is about its memory, too */
export const sizeFields = (size: Size, growth: readonly Row<SizeOptions>[] = []): readonly Row<SizeOptions>[] => [
  { flags: '--cpus <n>', help: `number of virtual CPUs (default: ${size.cpus})`, field: 'cpus', parse: ranges.cpus },
  {
    flags: '--memory <size>',
    help: `guest memory, for example 512M or 2G (default: ${ranges.mebibytes(size.memoryMib)})`,
    field: 'memoryMib',
    parse: ranges.memory,
  },
  ...growth,
  {
    flags: '--disk <size>',
    help: `writable disk space of the guest (default: ${ranges.mebibytes(size.diskMib)})`,
    field: 'diskMib',
    parse: ranges.disk,
  },
];
export const SIZE = sizeFields(DEFAULTS, [
  {
    flags: '--memory-max <size>',
    help: 'grow the guest memory in steps up to this size under memory pressure (default: no growth)',
    field: 'memoryMaxMib',
    parse: ranges.memoryMax,
  },
]);

const DISK_WORDS: Readonly<Record<string, LimitWord<keyof DiskLimits>>> = {
  rate: { field: 'bytesPerSecond', parse: parseRate, ...RANGES.diskBytesPerSecond },
  iops: { field: 'opsPerSecond', parse: parseCount, ...RANGES.diskOpsPerSecond },
};
/** They also change while the sandbox runs. */
export const RATES: readonly Row<Pick<CreateRequest, 'diskLimits' | 'channelLimits'>>[] = [
  {
    flags: '--disk-limit <limits>',
    help: 'disk limits, reads and writes together, for example rate=20M,iops=500, or none',
    field: 'diskLimits',
    parseAll: (texts) => parseLimits('--disk-limit', DISK_WORDS, 'rate=20M,iops=500', texts),
  },
  {
    flags: '--rate <bytes>',
    help: 'traffic with the host in each direction, bytes per second, for example 5M, or none',
    field: 'channelLimits',
    parse: channelLimits,
  },
];

/** Each direction may send a second's bytes at once. `none`: no limits. @throws UsageError */
function channelLimits(text: string): ChannelLimits {
  if (text === 'none') return {};
  const rate = ranges.rate(text);
  const bucket = { size: rate, refillPerSecond: rate };
  return { guestToHostBytes: bucket, hostToGuestBytes: bucket };
}

const LABEL: Row<CreateRequest> = {
  flags: '-l, --label <KEY=VALUE>',
  help: 'label, for ls and inspect (repeatable)',
  field: 'metadata',
  parseAll: (texts) => parsePairs(texts, '--label'),
};
const NAME: Row<CreateRequest> = {
  flags: '--name <name>',
  help: 'name to use instead of the ID',
  field: 'name',
  parse: sandboxName,
};
const SNAPSHOT: Row<CreateRequest> = {
  flags: '--snapshot <name>',
  help: 'restore a snapshot, by name or ID',
  field: 'snapshot',
  parse: (name) => name,
};

/** Of a sandbox that stays until it is removed. */
const LIFETIME: readonly Row<CreateRequest>[] = [
  {
    flags: '--timeout <time>',
    help: 'lifetime, for example 90s or 2h (default: unlimited)',
    field: 'timeoutMs',
    parse: ranges.timeout,
  },
  {
    flags: '--on-timeout <action>',
    help: 'action at the timeout: kill, pause (to disk) or pause-disk-only (without the memory) (default: kill)',
    field: 'onTimeout',
    choices: ['kill', 'pause', 'pause-disk-only'],
  },
  {
    flags: '--idle-timeout <time>',
    help: 'pause to disk after this time without activity, or none',
    fallback: '1h',
    field: 'idleTimeoutMs',
    parse: (text) => (isNone(text) ? null : ranges.idleTimeout(text)),
  },
  {
    flags: '--on-memory-pressure <action>',
    help:
      'action when close to OOM (at --memory-max, if set): warn, pause, snapshot, a URL to POST the event to ' +
      '(a private address only if NEUROVISOR_WEBHOOK_HOSTS of the daemon names it), or grow (like warn, but ' +
      'requires --memory-max) (default: warn)',
    field: 'onMemoryPressure',
    parse: memoryAction,
  },
  {
    flags: '--no-auto-resume',
    help: 'refuse operations while the sandbox is paused, instead of resuming it',
    field: 'autoResume',
    value: false,
  },
];

/** The control plane validates it, since it knows its capabilities. */
export function memoryAction(text: string): MemoryAction {
  return text as MemoryAction;
}

/** What commands read of the options beside the request; the others only a table reads. */
export interface SandboxFlags extends NetworkFlags, PackageFlags, RequirementFlags, ImageFlags, BuildFlags {
  readonly [option: string]: unknown;
  readonly warm: readonly string[];
  readonly template?: string;
  /** Instead of a clone. */
  readonly boot?: boolean;
  readonly cpus?: string;
  readonly memory?: string;
  readonly memoryMax?: string;
  readonly disk?: string;
}

/** `run`: its timeout is that of the script, and its model may be a file. */
export const RUN_FIELDS: FieldGroups<CreateRequest> = {
  'What to run:': [ENV, ...origin('boot instead of cloning a template'), NAME, REQUIREMENTS, WARM, VOLUMES],
  'What it may reach:': [NETWORK, PACKAGES],
  'Models:': [part('models', MODEL_FIELDS)],
  'Size and time:': [...SIZE, ...RATES],
};

export const CREATE_FIELDS: FieldGroups<CreateRequest> = {
  'What to run:': [
    ENV,
    ...origin('boot instead of using the pool or a template'),
    SNAPSHOT,
    NAME,
    LABEL,
    REQUIREMENTS,
    WARM,
    VOLUMES,
  ],
  'What it may reach:': [NETWORK, PACKAGES],
  'Models:': [part('models', [DEFAULT_MODEL, ...MODEL_FIELDS])],
  'Size and time:': [...SIZE, ...RATES, ...LIFETIME],
};

/** The request that the options make. @throws UsageError */
export function sandboxRequest(
  fields: FieldGroups<CreateRequest>,
  flags: object,
  { env }: Pick<Cli, 'env'>,
): CreateRequest {
  return readFields(Object.values(fields).flat(), flags, env);
}

/** The size that the options name. @throws UsageError */
export const sizeOptions = (flags: object): SizeOptions => readFields(SIZE, flags);

/**
 * `--template`: the control plane compares the options with what the template fixes; an image would be pulled or built
 * before.
 * @throws UsageError
 */
export function templateOption({
  template,
  image,
  build,
  boot,
}: Pick<SandboxFlags, 'template' | 'image' | 'build' | 'boot'>): { readonly template?: string } {
  if (image !== undefined && build !== undefined)
    throw new UsageError('--build and --image are mutually exclusive', 'omit one of them');
  if (template === undefined) return {};
  if (boot === true) throw new UsageError('--template and --boot are mutually exclusive', 'omit one of them');
  if (build !== undefined) throw new UsageError('--template and --build are mutually exclusive', 'omit one of them');
  if (image === undefined) return { template };
  throw new UsageError('--template and --image are mutually exclusive', 'omit one of them');
}
