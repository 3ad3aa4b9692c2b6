/** The requests that make and change sandboxes. */
import { z } from 'zod';
import type { ChannelLimits } from '../../../base/channel.ts';
import type { DiskLimits } from '../../../base/request/disk-limits.ts';
import { REQUIREMENT_LIMITS } from '../../../base/request/package-policy.ts';
import type { BucketLimit } from '../../../base/token-bucket.ts';
import { DEFAULT_QUEUE_TIMEOUT_MS, DEFAULTS, RANGES, type Range, REQUEST_LIMITS } from '../limits.ts';
import { modelOptions, requestedBudget } from './models.ts';
import { networkOptions, requestHeaders, secrets } from './network.ts';
import { packageOptions, packagesAge } from './packages.ts';
import {
  amount,
  CONTENT,
  list,
  metadata,
  notA,
  type ReadOnly,
  record,
  sandboxName,
  sandboxNameOnHost,
  snapshotReference,
  templateName,
  text,
  volumeReference,
  whole,
} from './values.ts';

/** Fractions are allowed, since the rate of a bucket is a quotient. */
const bucket = (id: string, { min, max }: Range, what: string) =>
  z
    .strictObject({
      size: amount({ min, max }),
      refillPerSecond: amount({ min, max }),
      oneTimeBurst: amount({ min: 0, max }).exactOptional(),
    } satisfies Record<keyof BucketLimit, z.ZodType>)
    .meta({ id, description: `Token bucket of ${what}: \`size\` tokens, refilled by \`refillPerSecond\`.` });
const byteBucket = bucket('ByteBucket', RANGES.channelBytes, 'bytes');
/** Too low, a limit also stops the host's own operations. */
export const channelLimits = z
  .strictObject({
    guestToHostBytes: byteBucket.exactOptional(),
    hostToGuestBytes: byteBucket.exactOptional(),
    connections: bucket('ConnectionBucket', RANGES.channelConnections, 'new connections').exactOptional(),
  } satisfies Record<keyof ChannelLimits, z.ZodType>)
  .meta({ id: 'ChannelLimits', description: 'Rate limits of the channel between sandbox and host.' });
export const diskLimits = z
  .strictObject({
    bytesPerSecond: whole(RANGES.diskBytesPerSecond).exactOptional().describe('Bytes read and written together.'),
    opsPerSecond: whole(RANGES.diskOpsPerSecond).exactOptional().describe('Reads and writes together.'),
  } satisfies Record<keyof DiskLimits, z.ZodType>)
  .meta({ id: 'DiskLimits', description: 'Limits for both disks together; with Firecracker, for each disk.' });

const variables = (most: number) => record(text(256), text(REQUEST_LIMITS.envBytesMax), most);
const environment = variables(REQUEST_LIMITS.envVariablesMax).meta({
  id: 'Environment',
  description: 'Environment variables.',
});
export const programEnvironment = variables(REQUEST_LIMITS.programVariablesMax).meta({
  id: 'ProgramEnvironment',
  description: 'Environment variables of one program.',
});

const MODULE_NAME = /^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$/;
const memoryMib = whole(RANGES.memoryMib);
/** What a template fixes. */
const size = {
  cpus: whole(RANGES.cpus).describe(`Virtual CPUs. Default ${DEFAULTS.cpus}.`).optional(),
  memoryMib: memoryMib.describe(`RAM, MiB. Default ${DEFAULTS.memoryMib}.`).optional(),
  memoryMaxMib: memoryMib
    .describe(
      'Memory grows in steps up to this maximum under memory pressure, MiB. At most 16 times `memoryMib`. Default: no growth.',
    )
    .optional(),
  diskMib: whole(RANGES.diskMib).describe(`Size of the writable disk, MiB. Default ${DEFAULTS.diskMib}.`).optional(),
  warm: list(
    text(REQUEST_LIMITS.warmModuleCharactersMax).refine((name) => MODULE_NAME.test(name), {
      error: notA('a module name'),
      params: CONTENT,
    }),
    REQUEST_LIMITS.warmModulesMax,
  )
    .describe('Python modules to import before the first script.')
    .optional(),
  requirements: list(text(REQUIREMENT_LIMITS.lineCharacters), REQUIREMENT_LIMITS.lines)
    .describe(
      'Python packages to install, as lines of a requirements file: `pandas`, `numpy==2.*`, `rich>=13 --hash=sha256:…`. ' +
        'A template with them is built once and kept; the first request waits for that.',
    )
    .optional(),
};
const image = text(REQUEST_LIMITS.imageCharactersMax)
  .min(1)
  .describe(
    'A container image to run in, such as `python:3.13-slim`; pulled on the host if it is not there. ' +
      'Default: the built-in system.',
  )
  .optional();

export const onTimeout = z
  .enum(['kill', 'pause', 'pause-disk-only'])
  .meta({ id: 'TimeoutAction', description: '`pause`: to disk. `pause-disk-only`: without the memory.' });
export type TimeoutAction = z.infer<typeof onTimeout>;

/** The action when a sandbox is close to OOM (`memory/policy.ts`). A URL receives the event. */
export type MemoryAction = 'warn' | 'grow' | 'pause' | 'snapshot' | `http://${string}` | `https://${string}`;
/** `checkRequest` checks the value: a schema can't express valid URLs. */
export const onMemoryPressure = z
  .custom<MemoryAction>((value) => typeof value === 'string')
  .meta({
    id: 'MemoryAction',
    type: 'string',
    description:
      'Action when close to OOM (with `memoryMaxMib`: at that maximum): `warn`, `pause` (in memory), ' +
      '`snapshot`, or a URL to post the event to (a private address only if `NEUROVISOR_WEBHOOK_HOSTS` of the ' +
      'daemon names it). `grow`: requires `memoryMaxMib`; at the maximum, as `warn`.',
    examples: ['snapshot'],
  });

const lifeFields = {
  timeoutMs: whole(RANGES.timeoutMs)
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
};
const vmFields = {
  channelLimits: channelLimits.optional(),
  diskLimits: diskLimits.optional().describe('Disk limits; replaces all of them. Default: no limit.'),
  network: networkOptions.nullable().optional().describe('Network policy. Null (default): no network card.'),
  secrets: secrets.optional().describe('Secrets that the guest can use but not read; replaces all of them.'),
  requestHeaders: requestHeaders
    .optional()
    .describe(
      'Header fields that the gateway sets in each HTTPS request to these hosts, whatever the guest sends; replaces all of them.',
    ),
};

// biome-ignore lint/suspicious/noControlCharactersInRegex: the pattern refuses them
const VOLUME_PATH = /^(?:\/(?!\.{1,2}(?:\/|$))[^/\u0000-\u001f\u007f]+)+$/u;
export const volumeMount = z
  .strictObject({
    name: volumeReference,
    path: text(REQUEST_LIMITS.volumePathCharactersMax)
      .regex(VOLUME_PATH, { error: notA('an absolute path without "." and ".."') })
      .describe('Where it is mounted: an absolute path, made if it is missing.'),
    readOnly: z.boolean().exactOptional().describe('Default false. Many sandboxes may read it, or one may write it.'),
  })
  .meta({ id: 'VolumeMount' });

/** As the REST interface takes it. */
export const createRequest = z
  .strictObject({
    ...size,
    image,
    name: sandboxName
      .optional()
      .describe('Name that stands for the id, until the sandbox has ended. Unique among the sandboxes of its owner.'),
    env: environment.optional().describe('Environment variables of every program.'),
    models: modelOptions.optional(),
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
    volumes: list(volumeMount, REQUEST_LIMITS.volumesMax)
      .optional()
      .describe(
        'Volumes to mount, as long as the sandbox exists. Not from a pool; no snapshots; forks only if all are read-only.',
      ),
    queueTimeoutMs: whole(RANGES.queueTimeoutMs)
      .optional()
      .describe(`Longest wait in the start queue. Default ${DEFAULT_QUEUE_TIMEOUT_MS}.`),
    ...lifeFields,
    ...vmFields,
  })
  .meta({
    id: 'CreateRequest',
    description: 'All fields are optional.',
    examples: [{ env: { STAGE: 'test' }, timeoutMs: 300_000, metadata: { job: '42' } }],
  });
/** What the interface that creates a sandbox keeps with it; no user sets them. Forks and snapshots keep them. */
const annotations = z.record(z.string(), z.string()).optional();
const localRequest = z.object({
  ...createRequest.shape,
  name: sandboxNameOnHost.optional(),
  console: z.enum(['log', 'interactive']).optional(),
  annotations,
});
export type CreateRequest = ReadOnly<z.infer<typeof localRequest>>;

/** The part of a request that `makeSpec` reads as it is; other fields are dropped. */
export const specFields = localRequest.pick({
  cpus: true,
  memoryMib: true,
  memoryMaxMib: true,
  diskMib: true,
  warm: true,
  env: true,
  timeoutMs: true,
  console: true,
  volumes: true,
});
/** The part of requests that outlives the VMs of a sandbox; other fields are dropped. */
export const lifetimeFields = z.object({
  ...lifeFields,
  annotations,
  queueTimeoutMs: createRequest.shape.queueTimeoutMs,
  name: localRequest.shape.name,
});

export const sandboxChange = z
  .strictObject({
    ...lifeFields,
    ...vmFields,
    memoryMib: memoryMib
      .optional()
      .describe('New memory size, MiB; requires `memoryMaxMib`. It shrinks only as far as programs leave memory free.'),
    models: z
      .strictObject({ budget: requestedBudget })
      .meta({ id: 'ModelChange' })
      .exactOptional()
      .describe(
        'Replaces the budget, also of the original and the forks that share it. What was used of it stays used.',
      ),
    packages: packageOptions
      .nullable()
      .optional()
      .describe('Replaces the package policy, for requests that arrive from now on. Null: none.'),
  })
  .meta({
    id: 'SandboxChange',
    description: 'Omitted fields stay as they are; `timeoutMs` counts from now.',
    examples: [{ timeoutMs: 60_000, onTimeout: 'pause' }],
  });
/**
 * Annotations replace the values of their keys; others stay. A change of the VM resumes the sandbox as `guest` does, but
 * one that is paused to disk stays there if only its secrets change: it may need the values to be resumed.
 */
export type SandboxChange = ReadOnly<z.infer<typeof sandboxChange>> & Pick<CreateRequest, 'annotations'>;

export const forkRequest = z
  .strictObject({
    count: whole(RANGES.forks).default(1).describe('Number of forks.'),
    name: sandboxName.exactOptional().describe('Name of the fork; only for one.'),
    timeoutMs: lifeFields.timeoutMs,
    metadata: metadata.exactOptional(),
  })
  .meta({ id: 'ForkRequest' });
export type ForkOptions = ReadOnly<z.infer<typeof forkRequest>>;

const templateFields = {
  ...size,
  packagesMinAgeMs: packagesAge
    .describe(
      'Versions younger than this do not exist when `requirements` are installed, milliseconds. Default: all do.',
    )
    .optional(),
  image,
  card: z
    .boolean()
    .optional()
    .describe(
      'With Firecracker: its guest has a network card, for requests with a network. ' +
        'Ignored with QEMU, whose guests get one when needed. Default false.',
    ),
};

export const poolMembers = z
  .strictObject({
    ...templateFields,
    template: templateName.optional().describe('Name of a template, instead of size, modules and packages.'),
  })
  .meta({
    id: 'PoolMembers',
    description: 'Size and modules of the members. Default: those of a sandbox without options.',
  });
/** The template of a pool: its name, or what a request without a name would say. */
export type PoolMembers = ReadOnly<z.infer<typeof poolMembers>>;

const startCommand = z
  .strictObject({
    command: text(REQUEST_LIMITS.startCharactersMax)
      .min(1)
      .describe('For the guest’s `sh`, as its default user, in that user’s home or the image’s working directory.'),
    ready: text(REQUEST_LIMITS.startCharactersMax)
      .min(1)
      .describe('The same, again and again; exit status 0: the program is ready.'),
    readyTimeoutMs: whole(RANGES.readyTimeoutMs).describe('From the start until ready.'),
  })
  .meta({ id: 'StartCommandRequest' });
/** A program that a template's guest starts before it is saved. */
export type StartCommand = ReadOnly<z.infer<typeof startCommand>>;
export const templateCreation = z
  .strictObject({
    ...templateFields,
    name: templateName.optional(),
    start: startCommand.optional().describe('The program that runs in every sandbox of the template.'),
  })
  .meta({ id: 'TemplateCreation' });
export type TemplateCreation = ReadOnly<z.infer<typeof templateCreation>>;
