/** Request bodies and parameters. */
import { z } from 'zod';
import { REQUIREMENT_LIMITS } from '../../../artifacts/requirements/requirement.ts';
import type { ChannelLimits } from '../../../base/channel.ts';
import { EGRESS_LIMITS } from '../../../base/request/egress-limits.ts';
import { ECOSYSTEMS, LOCK_ENTRY, PACKAGE_LIMITS, PACKAGE_RULE } from '../../../base/request/package-policy.ts';
import { PLACE_NAME_CHARACTERS_MAX } from '../../../base/request/secret-place.ts';
import { FIELD_PATH, FIELD_PATH_CHARACTERS_MAX } from '../../../base/text/field-path.ts';
import type { BucketLimit } from '../../../base/token-bucket.ts';
import type {
  CreateRequest,
  ForkOptions,
  PoolMembers,
  ResumeOptions,
  SandboxChange,
  SnapshotOptions,
} from '../../../sandbox/contract/control.ts';
import { RANGES, type Range, REQUEST_LIMITS } from '../../../sandbox/contract/limits.ts';
import type { ModelPolicy } from '../../../sandbox/contract/model-policy.ts';
import type { NetworkOptions } from '../../../sandbox/contract/network-spec.ts';
import type { PackageOptions } from '../../../sandbox/contract/packages.ts';
import type { RequestHeaderOptions, SecretOptions } from '../../../sandbox/contract/secrets.ts';
import type { TemplateRequest } from '../../../sandbox/contract/spec.ts';
import {
  diskLimits,
  metadata,
  milliseconds,
  modelBudget,
  modelCache,
  modelPriority,
  networkLimits,
  networkMode,
  onMemoryPressure,
  onTimeout,
  packageEcosystem,
  pausedTo,
  secretPlace,
  snapshotName,
  snapshotReference,
  templateName,
  text,
  whole,
} from './fields.ts';

/** Fractions are allowed, since the rate of a bucket is a quotient. */
const bucket = (id: string, { min, max }: Range, what: string) =>
  z
    .strictObject({
      size: z.number().min(min).max(max),
      refillPerSecond: z.number().min(min).max(max),
      oneTimeBurst: z.number().min(0).max(max).exactOptional(),
    } satisfies Record<keyof BucketLimit, z.ZodType>)
    .meta({ id, description: `Token bucket of ${what}: \`size\` tokens, refilled by \`refillPerSecond\`.` });
const byteBucket = bucket('ByteBucket', RANGES.channelBytes, 'bytes');
const channelLimits = z
  .strictObject({
    guestToHostBytes: byteBucket.exactOptional(),
    hostToGuestBytes: byteBucket.exactOptional(),
    connections: bucket('ConnectionBucket', RANGES.channelConnections, 'new connections').exactOptional(),
  } satisfies Record<keyof ChannelLimits, z.ZodType>)
  .meta({ id: 'ChannelLimits', description: 'Rate limits of the channel between sandbox and host.' });
const modelName = text(REQUEST_LIMITS.modelNameCharactersMax);
const rules = z
  .array(text(EGRESS_LIMITS.ruleCharactersMax))
  .max(EGRESS_LIMITS.rulesMax)
  .describe(
    'An address, a block, a name or `*.name`, optionally with `:port` or `:first-last` and `/tcp` or `/udp`. ' +
      '`allow` also takes methods and a URL: `GET,HEAD https://api.example.com/v1/` allows these requests to ' +
      'all paths below it.',
  );

const environment = z
  .record(text(256), text(REQUEST_LIMITS.envBytesMax))
  .meta({ id: 'Environment', description: 'Environment variables.' });

export const size = {
  cpus: whole(RANGES.cpus).describe('Virtual CPUs. Default 1.'),
  memoryMib: whole(RANGES.memoryMib).describe('RAM, MiB. Default 512.'),
  memoryMaxMib: whole(RANGES.memoryMib).describe(
    'Memory grows in steps up to this maximum under memory pressure, MiB. At most 16 times `memoryMib`. Default: no growth.',
  ),
  diskMib: whole(RANGES.diskMib).describe('Size of the writable disk, MiB. Default 2048.'),
  warm: z
    .array(text(REQUEST_LIMITS.warmModuleCharactersMax))
    .max(REQUEST_LIMITS.warmModulesMax)
    .describe('Python modules to import before the first script.'),
  requirements: z
    .array(text(REQUIREMENT_LIMITS.lineCharacters))
    .max(REQUIREMENT_LIMITS.lines)
    .describe(
      'Python packages to install, as lines of a requirements file: `pandas`, `numpy==2.*`, `rich>=13 --hash=sha256:…`. ' +
        'A template with them is built once and kept; the first request waits for that.',
    ),
  packagesMinAgeMs: whole(RANGES.packageAgeMs).describe(
    'Versions younger than this do not exist when `requirements` are installed, milliseconds. Default: all do.',
  ),
  image: text(REQUEST_LIMITS.imageCharactersMax)
    .min(1)
    .describe(
      'A container image to run in, such as `python:3.13-slim`; pulled on the host if it is not there. ' +
        'Default: the built-in system.',
    ),
} satisfies Record<keyof Omit<TemplateRequest, 'card'>, z.ZodType>;

const networkOptions = z
  .strictObject({
    mode: networkMode,
    allow: rules.optional(),
    deny: rules.optional(),
    limits: networkLimits.optional().describe('Replaces all limits. If omitted: none; in an update, unchanged.'),
  } satisfies Record<keyof NetworkOptions, z.ZodType>)
  .meta({ id: 'NetworkOptions' });
const secretOptions = z
  .strictObject({
    name: text(128).describe('Variable in the guest that holds the placeholder.'),
    hosts: z
      .array(text(320))
      .max(REQUEST_LIMITS.secretHostsMax)
      .describe('The only hosts that get the value, by HTTPS at port 443.'),
    places: z
      .array(secretPlace)
      .max(REQUEST_LIMITS.secretPlacesMax)
      .optional()
      .describe(
        'Where requests may have the value. If omitted or empty: in the usual credential fields, such as Authorization and X-Api-Key.',
      ),
    value: text(RANGES.secretCharacters.max).describe('Visible ASCII. Kept in memory only and never returned.'),
  } satisfies Record<keyof SecretOptions, z.ZodType>)
  .meta({ id: 'Secret' });
const requestHeader = z
  .strictObject({
    name: text(PLACE_NAME_CHARACTERS_MAX).describe('Header field.'),
    hosts: z
      .array(text(320))
      .max(REQUEST_LIMITS.secretHostsMax)
      .describe(
        'Host names, or `*.name` for all names below it, by HTTPS at port 443; their fields are not merged. This does not allow them.',
      ),
    value: z
      .string()
      .max(RANGES.requestHeaderCharacters.max)
      .describe('Printable ASCII. Kept in memory only and never returned.'),
  } satisfies Record<keyof RequestHeaderOptions, z.ZodType>)
  .meta({ id: 'RequestHeader' });

const lifeFields = {
  timeoutMs: milliseconds
    .nullable()
    .optional()
    .describe('Time until the sandbox is ended or paused (`onTimeout`). Default: no limit.'),
  onTimeout: onTimeout.optional().describe('What the timeout does. Default `kill`.'),
  idleTimeoutMs: whole(RANGES.idleTimeoutMs)
    .nullable()
    .optional()
    .describe('Idle time until the sandbox is paused to disk. Default: never.'),
  autoResume: z.boolean().optional().describe('Operations resume a paused sandbox. Default true.'),
  onMemoryPressure: onMemoryPressure.optional(),
  metadata: metadata.optional(),
  channelLimits: channelLimits.optional(),
  diskLimits: diskLimits.optional().describe('Disk limits; replaces all of them. Default: no limit.'),
  network: networkOptions.nullable().optional().describe('Network policy. Null (default): no network card.'),
  secrets: z
    .array(secretOptions)
    .max(REQUEST_LIMITS.secretsMax)
    .optional()
    .describe('Secrets that the guest can use but not read; replaces all of them.'),
  requestHeaders: z
    .array(requestHeader)
    .max(REQUEST_LIMITS.requestHeadersMax)
    .optional()
    .describe(
      'Header fields that the gateway sets in each HTTPS request to these hosts, whatever the guest sends; replaces all of them.',
    ),
} satisfies Record<Exclude<keyof SandboxChange, 'annotations' | 'memoryMib' | 'models' | 'packages'>, z.ZodType>;

const models = z
  .strictObject({
    defaultModel: modelName.nullable().exactOptional(),
    allow: z.array(modelName).max(REQUEST_LIMITS.modelsMax).nullable().exactOptional(),
    aliases: z.record(modelName, modelName).exactOptional(),
    allowHosted: z
      .array(modelName)
      .max(REQUEST_LIMITS.modelsMax)
      .exactOptional()
      .describe(
        'Models that may be served outside the host, which then gets the prompts; `all`: every one. Default: none.',
      ),
    allowFields: z
      .array(z.string().max(FIELD_PATH_CHARACTERS_MAX).regex(FIELD_PATH))
      .max(REQUEST_LIMITS.allowedFieldsMax)
      .exactOptional()
      .describe(
        'Fields of its requests to the model that the bridge would refuse otherwise, by their paths: ' +
          '`enable_search`, `messages.content.uuid`. They pass unchecked.',
      ),
    priority: modelPriority
      .exactOptional()
      .describe('In the queue of a model server whose slots are taken. Default `normal`.'),
    budget: modelBudget.exactOptional().describe('Default: no limit. Forks share the budget of their original.'),
    cache: modelCache.nullable().exactOptional().describe('Default: null, none.'),
  } satisfies Record<keyof ModelPolicy, z.ZodType>)
  .meta({ id: 'ModelOptions', description: 'Models it may use, their aliases, and what its requests may contain.' });

const packageRules = z
  .array(z.string().max(PACKAGE_LIMITS.ruleCharactersMax).regex(PACKAGE_RULE))
  .max(PACKAGE_LIMITS.rulesMax)
  .optional();
const packageOptions = z
  .strictObject({
    ecosystems: z.array(packageEcosystem).max(ECOSYSTEMS.length),
    allow: packageRules.describe(
      'Names, optionally with `pip:` before and `*` at the end. If omitted or empty: every name.',
    ),
    deny: packageRules.describe('The same form; overrides `allow`.'),
    minAgeMs: whole(RANGES.packageAgeMs)
      .nullable()
      .optional()
      .describe(
        'Versions younger than this do not exist for it, nor for the installation of `requirements`, milliseconds. Default: null.',
      ),
    lock: z
      .array(z.string().max(PACKAGE_LIMITS.lockCharactersMax).regex(LOCK_ENTRY))
      .max(PACKAGE_LIMITS.lockMax)
      .nullable()
      .optional()
      .describe('Only these files exist for it: `pip:NAME sha256:HEX`. Default: null.'),
  } satisfies Record<keyof PackageOptions, z.ZodType>)
  .meta({ id: 'PackageOptions' });

export const createRequest: z.ZodType<CreateRequest> = z
  .strictObject({
    cpus: size.cpus.optional(),
    memoryMib: size.memoryMib.optional(),
    memoryMaxMib: size.memoryMaxMib.optional(),
    diskMib: size.diskMib.optional(),
    warm: size.warm.optional(),
    requirements: size.requirements.optional(),
    image: size.image.optional(),
    env: environment.optional().describe('Environment variables of every program.'),
    models: models.optional(),
    packages: packageOptions
      .nullable()
      .optional()
      .describe('Packages that it may fetch through the host. Null (default): none.'),
    console: z.literal('log').optional(),
    snapshot: snapshotReference.optional().describe('Id or name of the snapshot to start from.'),
    template: templateName
      .optional()
      .describe(
        'Name of the template to start from, built again if it is out of date. Size, modules and packages are its own: ' +
          'other values are refused.',
      ),
    boot: z.boolean().optional().describe('Boot instead of cloning a template.'),
    queueTimeoutMs: whole(RANGES.queueTimeoutMs)
      .optional()
      .describe('Longest wait in the start queue. Default 60 000.'),
    ...lifeFields,
  } satisfies Record<Exclude<keyof CreateRequest, 'annotations'>, z.ZodType>)
  .meta({
    id: 'CreateRequest',
    description: 'All fields are optional.',
    examples: [{ env: { STAGE: 'test' }, timeoutMs: 300_000, metadata: { job: '42' } }],
  });

type ModelChange = NonNullable<SandboxChange['models']>;

export const sandboxChange: z.ZodType<SandboxChange> = z
  .strictObject({
    ...lifeFields,
    memoryMib: size.memoryMib
      .optional()
      .describe('New memory size, MiB; requires `memoryMaxMib`. It shrinks only as far as programs leave memory free.'),
    models: z
      .strictObject({ budget: modelBudget } satisfies Record<keyof ModelChange, z.ZodType>)
      .meta({ id: 'ModelChange' })
      .exactOptional()
      .describe(
        'Replaces the budget, also of the original and the forks that share it. What was used of it stays used.',
      ),
    packages: packageOptions
      .nullable()
      .optional()
      .describe('Replaces the package policy, for requests that arrive from now on. Null: none.'),
  } satisfies Record<Exclude<keyof SandboxChange, 'annotations'>, z.ZodType>)
  .meta({
    id: 'SandboxChange',
    description: 'Omitted fields stay as they are; `timeoutMs` counts from now.',
    examples: [{ timeoutMs: 60_000, onTimeout: 'pause' }],
  });

export const pauseRequest = z
  .strictObject({
    to: pausedTo
      .default('memory')
      .describe(
        '`memory`: the CPUs stop. `disk`: the memory is saved and freed, and connections end. `disk-only`: the memory ' +
          'is not saved, so processes end; only a resume boots the sandbox again.',
      ),
  })
  .meta({ id: 'PauseRequest' });

export const resumeRequest: z.ZodType<Omit<ResumeOptions, 'signal'>> = z
  .strictObject({
    reboot: z
      .boolean()
      .exactOptional()
      .describe('Boots from the disk and drops a saved memory; processes end. Default false.'),
  })
  .meta({ id: 'ResumeRequest' });

export const forkRequest: z.ZodType<ForkOptions> = z
  .strictObject({
    count: whole(RANGES.forks).default(1).describe('Number of forks.'),
    timeoutMs: lifeFields.timeoutMs,
    metadata: metadata.exactOptional(),
  } satisfies Record<keyof ForkOptions, z.ZodType>)
  .meta({ id: 'ForkRequest' });

export const snapshotRequest = z
  .strictObject({
    name: snapshotName.exactOptional(),
    diskOnly: z.boolean().exactOptional().describe('Saves no memory: sandboxes boot from the disk. Default false.'),
  } satisfies Record<keyof SnapshotOptions, z.ZodType>)
  .meta({ id: 'SnapshotRequest' });

export const poolRequest = z
  .strictObject({
    min: whole(RANGES.poolMembers).describe('Minimum of ready members.'),
    max: whole(RANGES.poolMembers).describe('Maximum of ready members.'),
    spec: z
      .strictObject({
        cpus: size.cpus.exactOptional(),
        memoryMib: size.memoryMib.exactOptional(),
        memoryMaxMib: size.memoryMaxMib.exactOptional(),
        diskMib: size.diskMib.exactOptional(),
        warm: size.warm.exactOptional(),
        requirements: size.requirements.exactOptional(),
        packagesMinAgeMs: size.packagesMinAgeMs.exactOptional(),
        image: size.image.exactOptional(),
        template: templateName.exactOptional().describe('Name of a template, instead of size, modules and packages.'),
        card: z
          .boolean()
          .exactOptional()
          .describe(
            'With Firecracker: the members have a network card, for requests with a network. ' +
              'Ignored with QEMU, whose members get one when needed. Default false.',
          ),
      } satisfies Record<keyof PoolMembers, z.ZodType>)
      .meta({
        id: 'PoolMembers',
        description: 'Size and modules of the members. Default: those of a sandbox without options.',
      })
      .exactOptional(),
  })
  .meta({ id: 'PoolRequest' });

const runFields = {
  env: environment.optional().describe("Added to the sandbox's environment."),
  cwd: text(4096).min(1).optional().describe("Default: the user's home."),
  user: text(256).min(1).optional().describe('Default `user`; `root` is allowed.'),
  stdin: z.string().optional().describe('Standard input. Default: empty.'),
  timeoutMs: milliseconds.optional().describe('Time limit of the program.'),
  outputBytesMax: whole({ min: 0, max: 1e12 }).optional().describe('Output beyond this is dropped. At most 16 MiB.'),
};
const execProgram = z
  .strictObject({
    argv: z.array(z.string()).min(1).max(65_536).describe('Program and arguments; no shell.'),
    ...runFields,
  })
  .meta({ id: 'ExecProgram', examples: [{ argv: ['ls', '-l'] }] });
const execScript = z
  .strictObject({
    code: z.string().describe('A Python script; runs in a fork of the warmed interpreter.'),
    args: z.array(z.string()).max(65_536).optional().describe('Arguments of the script.'),
    ...runFields,
  })
  .meta({ id: 'ExecScript', examples: [{ code: 'print(6 * 7)' }] });
export const execRequest = z
  .xor([execProgram, execScript], { error: execFault })
  .meta({
    id: 'ExecRequest',
    description: 'A program or a Python script.',
    examples: [{ argv: ['ls', '-l'] }, { code: 'print(6 * 7)' }],
  });
export type ExecRequest = z.output<typeof execRequest>;

/** The error of the request kind that was meant: a union's own message names no field. */
function execFault({ input, errors }: { input?: unknown; errors?: unknown }): string {
  const given = typeof input === 'object' && input !== null ? input : {};
  if ('argv' in given === 'code' in given) return 'give either `argv` or `code`';
  if ('args' in given && 'argv' in given) return '`args` requires `code`';
  const [program = [], script = []] = errors as readonly (readonly z.core.$ZodIssue[])[];
  return ('argv' in given ? program : script)
    .map(({ path, message }) => [...path.map(String), message].join(': '))
    .join('; ');
}
