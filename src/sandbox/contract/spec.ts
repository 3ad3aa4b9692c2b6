/** The spec of a sandbox. Checked once, here; a `SandboxSpec` is never checked again. */
import { newSandboxId, type SandboxId } from '../../base/ids.ts';
import type { DiskLimits } from '../../base/request/disk-limits.ts';
import type { PackagePolicy } from '../../base/request/package-policy.ts';
import type { CertificateAuthority } from '../../egress/net/secret/authority.ts';
import type { ChannelLimits } from '../../machine/vmm/driver.ts';
import { check, inRange, inRanges } from './checks.ts';
import { imageInfo, type SandboxEnvironment } from './environment.ts';
import { SandboxError } from './errors.ts';
import { RANGES, type Range, REQUEST_LIMITS } from './limits.ts';
import { type ModelAccount, type ModelPolicy, makeModelPolicy, modelAccountOf } from './model-policy.ts';
import { type NetworkOptions, type NetworkSpec, networkSpec, type ParseEgress } from './network-spec.ts';
import { type PackageOptions, packageInfo, packagePolicy } from './packages.ts';
import { makeRequestHeaders } from './request-headers.ts';
import {
  makeSecrets,
  placeholdersOf,
  type RequestHeaderOptions,
  type SandboxSecret,
  type SecretOptions,
  secretInfo,
  withValues,
} from './secrets.ts';

export interface SandboxSpec {
  readonly id: SandboxId;
  /** Virtual CPUs. */
  readonly cpus: number;
  /** Guest RAM, MiB; with a maximum, the current size. */
  readonly memoryMib: number;
  /** The most the guest can be given while it runs, MiB (`memory/size.ts`). Absent: the size is fixed. */
  readonly memoryMaxMib?: number;
  /** Size of the writable disk, MiB; sparse, so only written blocks use space. */
  readonly diskMib: number;
  /** Absent: the built-in system. */
  readonly environment?: SandboxEnvironment;
  /** Environment of every process of the user, in addition to the bridge's variables and those of its image. */
  readonly env: Readonly<Record<string, string>>;
  /** Time limit of the sandbox, milliseconds; null: none. */
  readonly timeoutMs: number | null;
  /** Python modules that the fork server imports before the first script. */
  readonly warm: readonly string[];
  readonly channelLimits: ChannelLimits;
  /** For all disks together; with Firecracker for each disk. Applied once the sandbox is ready. */
  readonly diskLimits: DiskLimits;
  readonly models: ModelPolicy;
  /** Absent: its own, and nothing was used before. Not part of a request. */
  readonly modelAccount?: ModelAccount | undefined;
  /** What it may fetch through the host's package gateway; null: nothing. Needs no network card. */
  readonly packages: PackagePolicy | null;
  /** Null: no network card. The model needs none. */
  readonly network: NetworkSpec | null;
  /** Their hosts are allowed in addition to the policy of `network`. */
  readonly secrets: readonly SandboxSecret[];
  /** The guest's certificate authority, created with its first secrets; the same in all its VMs and forks. */
  readonly authority?: CertificateAuthority | undefined;
  readonly console: 'log' | 'interactive';
  readonly hostname: string;
}

/** Fields that a request has in another form, or not at all. */
type Derived =
  | 'id'
  | 'hostname'
  | 'environment'
  | 'models'
  | 'modelAccount'
  | 'packages'
  | 'network'
  | 'secrets'
  | 'authority';

export type SandboxOptions = {
  readonly [K in Exclude<keyof SandboxSpec, Derived>]?: SandboxSpec[K] | undefined;
} & {
  readonly models?: Partial<ModelPolicy> | undefined;
  /** Default: null. */
  readonly packages?: PackageOptions | null | undefined;
  /** Default: null. */
  readonly network?: NetworkOptions | null | undefined;
  /** With secrets, `network` defaults to an allowlist of only their hosts. */
  readonly secrets?: readonly SecretOptions[] | undefined;
  /** Header fields that the gateway sets. They allow no host. */
  readonly requestHeaders?: readonly RequestHeaderOptions[] | undefined;
  /** Python packages to install, as lines of a requirements file. The template with them is built once, and kept. */
  readonly requirements?: readonly string[] | undefined;
  /** A container image to run in, as `image pull` takes it; pulled if it is not here. Default: the built-in system. */
  readonly image?: string | undefined;
};

/** Options whose image is resolved. */
export type ResolvedOptions = SandboxOptions & Pick<SandboxSpec, 'environment'>;

/** The part of a spec that a template or snapshot fixes; the rest is bound when a clone starts. */
export type TemplateSpec = Pick<
  SandboxSpec,
  'cpus' | 'memoryMib' | 'memoryMaxMib' | 'diskMib' | 'warm' | 'environment'
> & {
  /** True: its guest has a network card, which passes nothing. Only for VMMs that can't plug one into a clone. */
  readonly card?: boolean;
  /** Python packages on its disk, as lines of a requirements file, parsed and sorted. */
  readonly requirements?: readonly string[];
  /** Versions younger than this did not exist when the packages were installed. */
  readonly packagesMinAgeMs?: number;
  /** The program that runs in every clone. */
  readonly start?: StartCommand;
};

/** A program that a template's guest starts before it is saved. */
export interface StartCommand {
  /** For the guest's `sh`, as its default user, in that user's home or the image's working directory. */
  readonly command: string;
  /** The same, again and again; exit status 0: the program is ready. */
  readonly ready: string;
  /** From the start until ready. */
  readonly readyTimeoutMs: number;
}

/** A template as it is requested. */
export type TemplateRequest = {
  readonly [K in Exclude<keyof TemplateSpec, 'environment' | 'start'>]?: TemplateSpec[K] | undefined;
} & Pick<SandboxOptions, 'image'>;

/** The "medium" size: enough for LangChain and NumPy with some data. */
export const DEFAULTS = { cpus: 1, memoryMib: 512, diskMib: 2048 } as const;

export const ENV_NAME = /^[A-Za-z_][A-Za-z0-9_]*$/;
const MODULE_NAME = /^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$/;

/**
 * @param parseEgress absent: this host has no network for sandboxes
 * @throws SandboxError `spec_invalid`, naming the field and what it may be
 */
export function makeSpec(
  options: ResolvedOptions,
  hostCpus: number,
  parseEgress: ParseEgress = withoutNetwork,
): SandboxSpec {
  const id = newSandboxId();
  const env = options.env ?? {};
  const secrets = [...makeSecrets(options.secrets ?? []), ...makeRequestHeaders(options.requestHeaders ?? [])];
  const { environment } = options;
  checkEnv({ ...environment?.env, ...env }, secrets);
  const warm = options.warm ?? [];
  check(warm.length <= REQUEST_LIMITS.warmModulesMax, 'warm', `at most ${REQUEST_LIMITS.warmModulesMax} modules`);
  for (const name of warm) check(MODULE_NAME.test(name), 'warm', `"${name}" is not a module name`);
  const models = makeModelPolicy(options.models ?? {});
  const memoryMib = inRange('memoryMib', options.memoryMib ?? DEFAULTS.memoryMib, RANGES.memoryMib);
  const { timeoutMs = null, memoryMaxMib } = options;
  if (timeoutMs !== null) inRange('timeoutMs', timeoutMs, RANGES.timeoutMs);
  return {
    id,
    hostname: `nv-${id.slice(0, 8)}`,
    cpus: cpusOf(options.cpus ?? DEFAULTS.cpus, hostCpus),
    memoryMib,
    ...(memoryMaxMib === undefined ? {} : { memoryMaxMib: inMaxRange(memoryMaxMib, memoryMib) }),
    diskMib: inRange('diskMib', options.diskMib ?? DEFAULTS.diskMib, RANGES.diskMib),
    ...(environment === undefined ? {} : { environment }),
    env,
    timeoutMs,
    warm,
    channelLimits: checkChannelLimits(options.channelLimits ?? {}),
    diskLimits: checkDiskLimits(options.diskLimits ?? {}),
    models,
    packages: packagePolicy(options.packages ?? null),
    network: networkWith(secrets, networkSpec(options.network ?? null, parseEgress)),
    secrets,
    console: options.console ?? 'log',
  };
}

function withoutNetwork(): never {
  throw new SandboxError('network_unavailable', 'this host has no network for sandboxes');
}

const DISK_RANGES = {
  bytesPerSecond: RANGES.diskBytesPerSecond,
  opsPerSecond: RANGES.diskOpsPerSecond,
} satisfies Record<keyof DiskLimits, Range>;

/** @throws SandboxError `spec_invalid` */
export function checkDiskLimits(limits: DiskLimits): DiskLimits {
  return inRanges('diskLimits', limits, DISK_RANGES);
}

const CHANNEL_RANGES = {
  guestToHostBytes: RANGES.channelBytes,
  hostToGuestBytes: RANGES.channelBytes,
  connections: RANGES.channelConnections,
} satisfies Record<keyof ChannelLimits, Range>;

/** Too low, a limit also stops the host's own operations. @throws SandboxError `spec_invalid` */
export function checkChannelLimits(limits: ChannelLimits): ChannelLimits {
  for (const [name, { min, max }] of Object.entries(CHANNEL_RANGES)) {
    const bucket = limits[name as keyof ChannelLimits];
    if (bucket === undefined) continue;
    const { size, refillPerSecond, oneTimeBurst = 0 } = bucket;
    const isFine =
      [size, refillPerSecond].every((value) => value >= min && value <= max) &&
      oneTimeBurst >= 0 &&
      oneTimeBurst <= max;
    check(isFine, `channelLimits.${name}`, `size and refillPerSecond are ${min} to ${max}`);
  }
  return limits;
}

/** Secrets need a network: by default one that allows only their hosts. */
function networkWith(secrets: readonly SandboxSecret[], network: NetworkSpec | null): NetworkSpec | null {
  if (network !== null || secrets.every(({ sets }) => sets !== undefined)) return network;
  return { policy: { mode: 'allowlist', allow: [], deny: [] }, limits: {} };
}

/** New secrets or header fields; an absent list does not change. */
export type SecretChange = Pick<SandboxOptions, 'secrets' | 'requestHeaders'>;

export function hasSecretChange({ secrets, requestHeaders }: SecretChange): boolean {
  return secrets !== undefined || requestHeaders !== undefined;
}

/** @throws SandboxError `spec_invalid` */
export function withSecrets(spec: SandboxSpec, change: SecretChange): SandboxSpec {
  const before = spec.secrets;
  const secrets = [
    ...(change.secrets === undefined
      ? before.filter(({ sets }) => sets === undefined)
      : makeSecrets(change.secrets, before)),
    ...(change.requestHeaders === undefined
      ? before.filter(({ sets }) => sets !== undefined)
      : makeRequestHeaders(change.requestHeaders)),
  ];
  checkEnv(spec.env, secrets);
  return { ...spec, secrets, network: networkWith(secrets, spec.network) };
}

/** The fields that are public as they are. */
export function specInfo(
  spec: Pick<
    SandboxSpec,
    | 'models'
    | 'modelAccount'
    | 'cpus'
    | 'memoryMib'
    | 'memoryMaxMib'
    | 'diskMib'
    | 'environment'
    | 'diskLimits'
    | 'models'
    | 'packages'
    | 'secrets'
  > & { readonly id: string },
) {
  const { cpus, memoryMib, memoryMaxMib = null, diskMib, diskLimits, packages, secrets } = spec;
  const { id, environment, models, modelAccount } = spec;
  return {
    cpus,
    memoryMib,
    memoryMaxMib,
    diskMib,
    image: environment === undefined ? null : imageInfo(environment),
    diskLimits,
    models,
    modelUse: { account: modelAccountOf({ id, modelAccount }), used: modelAccount?.used ?? null },
    packages: packages && packageInfo(packages),
    secrets: secretInfo(secrets),
  };
}

/** The fields that are never written to disk, as this process knows them, for a spec that was read from disk. */
export function unwritten({ secrets }: SandboxSpec, known: SandboxSpec): Pick<SandboxSpec, 'secrets' | 'authority'> {
  return { secrets: withValues(secrets, known.secrets), authority: known.authority };
}

/** Includes the variables of secrets, which must not be in `env` too. */
function checkEnv(env: Readonly<Record<string, string>>, secrets: readonly SandboxSecret[]): void {
  const placeholders = placeholdersOf(secrets);
  const twice = secrets.find(({ name }) => Object.hasOwn(placeholders, name) && Object.hasOwn(env, name));
  check(twice === undefined, 'secrets', `${twice?.name} is also a variable of env`);
  const entries = Object.entries({ ...env, ...placeholders });
  check(entries.length <= REQUEST_LIMITS.envVariablesMax, 'env', `at most ${REQUEST_LIMITS.envVariablesMax} variables`);
  let bytes = 0;
  for (const [name, value] of entries) {
    check(ENV_NAME.test(name), 'env', `"${name}" is not a variable name`);
    check(!value.includes('\0'), 'env', `the value of ${name} contains a NUL byte`);
    bytes += Buffer.byteLength(name) + Buffer.byteLength(value) + 2;
  }
  check(bytes <= REQUEST_LIMITS.envBytesMax, 'env', `at most ${REQUEST_LIMITS.envBytesMax} bytes in all`);
}

function cpusOf(cpus: number, hostCpus: number): number {
  inRange('cpus', cpus, RANGES.cpus);
  check(cpus <= hostCpus, 'cpus', `${cpus} is more than the ${hostCpus} of this host`);
  return cpus;
}

function inMaxRange(memoryMaxMib: number, memoryMib: number): number {
  const max = Math.min(RANGES.memoryMib.max, memoryMib * REQUEST_LIMITS.memoryMaxTimes);
  return inRange('memoryMaxMib', memoryMaxMib, { min: memoryMib, max });
}

/** The spec of a fork: the same network limits, with nothing used; the same budget for models, and no more. */
export function withoutIdentity(spec: SandboxSpec): Omit<SandboxSpec, 'id' | 'hostname'> {
  const { id: _id, hostname: _hostname, ...rest } = spec;
  const network = spec.network && { policy: spec.network.policy, limits: spec.network.limits };
  return { ...rest, network, modelAccount: { id: spec.id, ...spec.modelAccount } };
}
