/** The spec of a sandbox. Checked once, here; a `SandboxSpec` is never checked again. */
import { newSandboxId, type SandboxId } from '../../base/ids.ts';
import type { DiskLimits } from '../../base/request/disk-limits.ts';
import type { PackagePolicy } from '../../base/request/package-policy.ts';
import type { CertificateAuthority } from '../../egress/net/secret/authority.ts';
import type { ChannelLimits } from '../../machine/vmm/driver.ts';
import { check, inRange } from './checks.ts';
import { imageInfo, type SandboxEnvironment } from './environment.ts';
import { SandboxError } from './errors.ts';
import { DEFAULTS, RANGES, REQUEST_LIMITS } from './limits.ts';
import { type ModelAccount, type ModelPolicy, makeModelPolicy, modelAccountOf } from './model-policy.ts';
import { type NetworkSpec, networkSpec, type ParseEgress } from './network-spec.ts';
import { packageInfo, packagePolicy } from './packages.ts';
import { makeRequestHeaders } from './request-headers.ts';
import { parse } from './schema/parse.ts';
import { type CreateRequest, channelLimits, diskLimits, type StartCommand, specFields } from './schema/request.ts';
import { makeSecrets, placeholdersOf, type SandboxSecret, secretInfo, withValues } from './secrets.ts';

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
  /** By their names on this host. */
  readonly volumes: NonNullable<CreateRequest['volumes']>;
  readonly hostname: string;
}

/** A request without what only a host of many sandboxes needs: where the sandbox starts from, and its lifetime. */
export type SandboxOptions = Omit<
  CreateRequest,
  | 'name'
  | 'snapshot'
  | 'template'
  | 'boot'
  | 'queueTimeoutMs'
  | 'metadata'
  | 'annotations'
  | 'onTimeout'
  | 'idleTimeoutMs'
  | 'autoResume'
  | 'onMemoryPressure'
>;

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

export const ENV_NAME = /^[A-Za-z_][A-Za-z0-9_]*$/;

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
  const secrets = [...makeSecrets(options.secrets ?? []), ...makeRequestHeaders(options.requestHeaders ?? [])];
  const { environment } = options;
  const plain = parse(specFields, options);
  const { cpus = DEFAULTS.cpus, memoryMib = DEFAULTS.memoryMib, memoryMaxMib, diskMib = DEFAULTS.diskMib } = plain;
  const { env = {}, timeoutMs = null, warm = [], console = 'log', volumes = [] } = plain;
  checkMounts(volumes);
  checkEnv({ ...environment?.env, ...env }, secrets);
  check(cpus <= hostCpus, 'cpus', `${cpus} is more than the ${hostCpus} of this host`);
  return {
    id,
    hostname: `nv-${id.slice(0, 8)}`,
    cpus,
    memoryMib,
    ...(memoryMaxMib === undefined ? {} : { memoryMaxMib: inMaxRange(memoryMaxMib, memoryMib) }),
    diskMib,
    ...(environment === undefined ? {} : { environment }),
    env,
    timeoutMs,
    warm,
    channelLimits: parse(channelLimits, options.channelLimits ?? {}, 'channelLimits'),
    diskLimits: parse(diskLimits, options.diskLimits ?? {}, 'diskLimits'),
    models: makeModelPolicy(options.models ?? {}),
    packages: packagePolicy(options.packages ?? null),
    network: networkWith(secrets, networkSpec(options.network ?? null, parseEgress)),
    secrets,
    console,
    volumes,
  };
}

/** Where the guest's system is; a volume there would hide it. */
const SYSTEM_PATH = /^\/(?:proc|sys|dev|run|bin|sbin|lib|lib64|usr|etc)(?:\/|$)/;

function checkMounts(volumes: SandboxSpec['volumes']): void {
  const places = new Map<string, 'name' | 'path'>();
  for (const { name, path } of volumes) {
    check(!SYSTEM_PATH.test(path), 'volumes', `${path} belongs to the guest's system`);
    check(!places.has(name), 'volumes', `${name} is named twice`);
    places.set(name, 'name');
    for (const [other, kind] of places) {
      const isWithin = kind === 'path' && (`${path}/`.startsWith(`${other}/`) || other.startsWith(`${path}/`));
      check(!isWithin, 'volumes', `${path} and ${other} are within each other`);
    }
    places.set(path, 'path');
  }
}

function withoutNetwork(): never {
  throw new SandboxError('network_unavailable', 'this host has no network for sandboxes');
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
    | 'volumes'
  > & { readonly id: string },
) {
  const { cpus, memoryMib, memoryMaxMib = null, diskMib, diskLimits, packages, secrets } = spec;
  const { id, environment, models, modelAccount, volumes } = spec;
  return {
    volumes,
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
