/** What a user asks for. Checked once here; inside, a `SandboxSpec` is never checked again. */
import type { DiskLimits } from '../base/disk-limits.ts';
import { newSandboxId, type SandboxId } from '../base/ids.ts';
import type { BytesByName, DestinationLimit } from '../net/policy/destination-budgets.ts';
import type { EgressMode, EgressPolicy } from '../net/policy/policy.ts';
import type { CertificateAuthority } from '../net/secret/authority.ts';
import type { ChannelLimits } from '../vmm/driver.ts';
import { SandboxError } from './errors.ts';
import { isInRange, LIMITS, RANGES, type Range } from './limits.ts';
import {
  makeSecrets,
  placeholdersOf,
  type SandboxSecret,
  type SecretOptions,
  secretInfo,
  withValues,
} from './secrets.ts';

export interface SandboxSpec {
  readonly id: SandboxId;
  /** Virtual CPUs. */
  readonly cpus: number;
  /** Guest RAM, MiB; where there is a maximum, what it has now. */
  readonly memoryMib: number;
  /** What its guest can be given while it runs, MiB (`memory-size.ts`). Absent: its memory stays as it is. */
  readonly memoryMaxMib?: number;
  /** Size of the disk that takes the guest's writes, MiB; sparse, so it costs what is written. */
  readonly diskMib: number;
  /** Environment of every process of the user, beside the bridge's own variables. */
  readonly env: Readonly<Record<string, string>>;
  /** The sandbox is ended after this long, milliseconds; null: no limit. */
  readonly timeoutMs: number | null;
  /** Python modules that the fork server imports before the first script. */
  readonly warm: readonly string[];
  readonly channelLimits: ChannelLimits;
  /** Its disks together; Firecracker: each of them. From when it is ready. */
  readonly diskLimits: DiskLimits;
  readonly models: ModelPolicy;
  /** Null: no network card; the model is reached all the same. */
  readonly network: NetworkSpec | null;
  /** Their hosts are allowed beside what `network` says. */
  readonly secrets: readonly SandboxSecret[];
  /** In which its guest trusts; made with the first network that has secrets, and kept for its lives and forks. */
  readonly authority?: CertificateAuthority | undefined;
  readonly console: 'log' | 'interactive';
  readonly hostname: string;
}

/** What a sandbox may connect to, and how much of it. */
export interface NetworkSpec {
  /** From the rules of the request to the rules of the packet filter this one object. */
  readonly policy: EgressPolicy;
  /** An absent limit means none, except for connections (2,048). */
  readonly limits: NetworkLimits;
  /** Of `limits.bytesMax`, by network cards that the sandbox has had. Not asked for: kept here with a pause. */
  readonly bytesUsed?: number;
  /** The same of `limits.destinations`, by their names. */
  readonly destinationBytesUsed?: BytesByName;
}

/** Of IPv4 packets between guest and host, headers included. */
export interface NetworkLimits {
  /** Both directions together, in the sandbox's life: then its connections are reset, and no more begin. */
  readonly bytesMax?: number;
  /** Of the guest. */
  readonly uploadBytesPerSecond?: number;
  readonly downloadBytesPerSecond?: number;
  /** At one time, to the network and to the host. */
  readonly connectionsMax?: number;
  /** By name, of what is said to it by TLS or HTTP at ports 443 and 80; both directions, without packet headers. */
  readonly destinations?: readonly DestinationLimit[];
}

/** A network as it is requested: rules as people write them (`docs/network.md`). */
export interface NetworkOptions {
  /** `none`: nothing. `allowlist`: what a rule allows. `open`: the internet, less what a rule denies. */
  readonly mode: EgressMode;
  readonly allow?: readonly string[] | undefined;
  readonly deny?: readonly string[] | undefined;
  /** Replaces all limits. Absent: none; a sandbox with a network keeps its limits. */
  readonly limits?: NetworkLimits | undefined;
}

/** A policy as people write it. */
export interface EgressText {
  readonly mode: EgressMode;
  readonly allow: readonly string[];
  readonly deny: readonly string[];
}

/**
 * Reads the rules of a request. The one place where egress rules are judged.
 * @throws SandboxError `spec_invalid`, naming the rule
 */
export type ParseEgress = (options: NetworkOptions) => EgressPolicy;

export interface ModelPolicy {
  /** Model that scripts find in `NEUROVISOR_MODEL`, allowed by being named here; null: none. */
  readonly defaultModel: string | null;
  /** Names that the guest may use; null: all of the upstream's. */
  readonly allow: readonly string[] | null;
  /** Name that the guest asks for → name that the upstream knows. */
  readonly aliases: Readonly<Record<string, string>>;
}

/**
 * With the host's default where none is named: the upstream's first, but only if it is among the allowed; else
 * the first of those, so that "only these" means it.
 * @param offered the upstream's first; null: it has none
 */
export function withDefaultModel(
  models: Partial<ModelPolicy> | undefined,
  offered: string | null,
): Partial<ModelPolicy> {
  const allow = models?.allow ?? null;
  const defaultModel =
    allow === null || allow.includes(offered ?? '') ? offered : (allow[0] ?? null);
  return { defaultModel, ...models };
}

/** What is asked for in another form, or not at all. */
type NotGiven = 'id' | 'hostname' | 'models' | 'network' | 'secrets' | 'authority';

export type SandboxOptions = {
  readonly [K in Exclude<keyof SandboxSpec, NotGiven>]?: SandboxSpec[K] | undefined;
} & {
  readonly models?: Partial<ModelPolicy> | undefined;
  /** Default: null. */
  readonly network?: NetworkOptions | null | undefined;
  /** Where there are some, the default of `network` is a list of nothing else than their hosts. */
  readonly secrets?: readonly SecretOptions[] | undefined;
};

/** The part of a spec that a template or snapshot fixes; the rest is bound when a clone starts. */
export type TemplateSpec = Pick<
  SandboxSpec,
  'cpus' | 'memoryMib' | 'memoryMaxMib' | 'diskMib' | 'warm'
>;

/** The "medium" size: enough for LangChain and NumPy with some data. */
export const DEFAULTS = { cpus: 1, memoryMib: 512, diskMib: 2048 } as const;

const ENV_NAME = /^[A-Za-z_][A-Za-z0-9_]*$/;
const MODULE_NAME = /^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$/;

/**
 * @param parseEgress absent: this host has no network for sandboxes
 * @throws SandboxError `spec_invalid`, naming the field and what it may be
 */
export function makeSpec(
  options: SandboxOptions,
  hostCpus: number,
  parseEgress: ParseEgress = withoutNetwork,
): SandboxSpec {
  const id = newSandboxId();
  const env = options.env ?? {};
  const secrets = makeSecrets(options.secrets ?? []);
  checkEnv(env, secrets);
  const warm = options.warm ?? [];
  check(warm.length <= LIMITS.warmModulesMax, 'warm', `at most ${LIMITS.warmModulesMax} modules`);
  for (const name of warm) check(MODULE_NAME.test(name), 'warm', `"${name}" is no module name`);
  const models: ModelPolicy = {
    defaultModel: options.models?.defaultModel ?? null,
    allow: options.models?.allow ?? null,
    aliases: options.models?.aliases ?? {},
  };
  for (const name of [
    models.defaultModel ?? 'x',
    ...(models.allow ?? []),
    ...Object.entries(models.aliases).flat(),
  ]) {
    const { modelNameCharactersMax: most } = LIMITS;
    const ok = name.length > 0 && name.length <= most && !/\p{Cc}/u.test(name);
    check(ok, 'models', `a model name has 1 to ${most} printable characters`);
  }
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
    env,
    timeoutMs,
    warm,
    channelLimits: options.channelLimits ?? {},
    diskLimits: checkDiskLimits(options.diskLimits ?? {}),
    models,
    network: networkWith(secrets, networkSpec(options.network ?? null, parseEgress)),
    secrets,
    console: options.console ?? 'log',
  };
}

/**
 * @param before the sandbox's network now: its limits stay if `options` names none
 * @throws SandboxError `spec_invalid`
 */
export function networkSpec(
  options: NetworkOptions | null,
  parseEgress: ParseEgress,
  before: NetworkSpec | null = null,
): NetworkSpec | null {
  if (options === null) return null;
  const limits = networkLimits(options.limits ?? before?.limits ?? {});
  return { policy: parseEgress({ ...options, limits }), limits };
}

/** The rules of a policy, as they were written. */
export function egressText({ mode, allow, deny }: EgressPolicy): EgressText {
  return { mode, allow: allow.map(({ text }) => text), deny: deny.map(({ text }) => text) };
}

function withoutNetwork(): never {
  throw new SandboxError('network_unavailable', 'this host has no network for sandboxes');
}

const NETWORK_RANGES = {
  bytesMax: RANGES.networkBytes,
  uploadBytesPerSecond: RANGES.networkBytesPerSecond,
  downloadBytesPerSecond: RANGES.networkBytesPerSecond,
  connectionsMax: RANGES.networkConnections,
} satisfies Record<Exclude<keyof NetworkLimits, 'destinations'>, Range>;

function networkLimits({ destinations = [], ...numbers }: NetworkLimits): NetworkLimits {
  const byName = destinations.length === 0 ? {} : { destinations: destinationLimits(destinations) };
  return { ...inRanges('network.limits', numbers, NETWORK_RANGES), ...byName };
}

const DESTINATION = /^(?=.{1,255}$)(?:\*\.)?(?:[a-z0-9_-]{1,63}\.)+[a-z0-9_-]{1,63}$/;

function destinationLimits(limits: readonly DestinationLimit[]): DestinationLimit[] {
  const field = 'network.limits.destinations';
  const { networkDestinationsMax: most } = LIMITS;
  check(limits.length <= most, field, `at most ${most}`);
  const made = limits.map(({ name: text, bytesMax }) => {
    const name = text.toLowerCase().replace(/\.$/, '');
    check(DESTINATION.test(name), field, `"${text.slice(0, 80)}" is no host name, nor *. and one`);
    return { name, bytesMax: inRange(`${field} ${name}`, bytesMax, RANGES.networkBytes) };
  });
  const isTwice = new Set(made.map(({ name }) => name)).size < made.length;
  check(!isTwice, field, 'a name is limited twice');
  return made;
}

const DISK_RANGES = {
  bytesPerSecond: RANGES.diskBytesPerSecond,
  opsPerSecond: RANGES.diskOpsPerSecond,
} satisfies Record<keyof DiskLimits, Range>;

/** @throws SandboxError `spec_invalid` */
export function checkDiskLimits(limits: DiskLimits): DiskLimits {
  return inRanges('diskLimits', limits, DISK_RANGES);
}

/** Secrets need a network; what it lets through beside their hosts is nothing. */
function networkWith(
  secrets: readonly SandboxSecret[],
  network: NetworkSpec | null,
): NetworkSpec | null {
  if (network !== null || secrets.length === 0) return network;
  return { policy: { mode: 'allowlist', allow: [], deny: [] }, limits: {} };
}

/** @throws SandboxError `spec_invalid` */
export function withSecrets(spec: SandboxSpec, options: readonly SecretOptions[]): SandboxSpec {
  const secrets = makeSecrets(options, spec.secrets);
  checkEnv(spec.env, secrets);
  return { ...spec, secrets, network: networkWith(secrets, spec.network) };
}

/** What is told of it as it is. */
export function specInfo(
  spec: Pick<
    SandboxSpec,
    'cpus' | 'memoryMib' | 'memoryMaxMib' | 'diskMib' | 'diskLimits' | 'secrets'
  >,
) {
  const { cpus, memoryMib, memoryMaxMib = null, diskMib, diskLimits, secrets } = spec;
  return { cpus, memoryMib, memoryMaxMib, diskMib, diskLimits, secrets: secretInfo(secrets) };
}

/** What is never on the disk: of what was read from there, as this process knows it. */
export function unwritten(
  { secrets }: SandboxSpec,
  known: SandboxSpec,
): Pick<SandboxSpec, 'secrets' | 'authority'> {
  return { secrets: withValues(secrets, known.secrets), authority: known.authority };
}

/** With the variables of secrets, which must not be given twice. */
function checkEnv(env: Readonly<Record<string, string>>, secrets: readonly SandboxSecret[]): void {
  const twice = secrets.find(({ name }) => Object.hasOwn(env, name));
  check(twice === undefined, 'secrets', `${twice?.name} is a variable of env as well`);
  const entries = Object.entries({ ...env, ...placeholdersOf(secrets) });
  check(
    entries.length <= LIMITS.envVariablesMax,
    'env',
    `at most ${LIMITS.envVariablesMax} variables`,
  );
  let bytes = 0;
  for (const [name, value] of entries) {
    check(ENV_NAME.test(name), 'env', `"${name}" is no variable name`);
    check(!value.includes('\0'), 'env', `the value of ${name} contains a NUL byte`);
    bytes += Buffer.byteLength(name) + Buffer.byteLength(value) + 2;
  }
  check(bytes <= LIMITS.envBytesMax, 'env', `at most ${LIMITS.envBytesMax} bytes in all`);
}

function cpusOf(cpus: number, hostCpus: number): number {
  inRange('cpus', cpus, RANGES.cpus);
  check(cpus <= hostCpus, 'cpus', `${cpus} are more than this host has, which is ${hostCpus}`);
  return cpus;
}

/** @throws SandboxError `spec_invalid` */
export function inRange(field: string, value: number, range: Range): number {
  const { min, max } = range;
  const why = `${value} is not a whole number from ${min} to ${max}`;
  check(isInRange(value, range), field, why);
  return value;
}

/** The fields of `values` that are set, each judged by its range. */
function inRanges<T extends { readonly [K in keyof T]?: number | undefined }>(
  field: string,
  values: T,
  ranges: { readonly [K in keyof T]-?: Range },
): T {
  const names = (Object.keys(ranges) as (keyof T & string)[]).filter(
    (name) => values[name] !== undefined,
  );
  const checked = names.map((name) => {
    const value = values[name] ?? Number.NaN;
    return [name, inRange(`${field}.${name}`, value, ranges[name])] as const;
  });
  return Object.fromEntries(checked) as T;
}

function inMaxRange(memoryMaxMib: number, memoryMib: number): number {
  const max = Math.min(RANGES.memoryMib.max, memoryMib * LIMITS.memoryMaxTimes);
  return inRange('memoryMaxMib', memoryMaxMib, { min: memoryMib, max });
}

function check(ok: boolean, field: string, why: string): asserts ok {
  if (!ok) throw new SandboxError('spec_invalid', `sandbox option ${field}: ${why}`);
}

/** What a fork of it gets. Its network has the same limits, with nothing used of them. */
export function withoutIdentity(spec: SandboxSpec): Omit<SandboxSpec, 'id' | 'hostname'> {
  const { id: _id, hostname: _hostname, ...rest } = spec;
  const network = spec.network && { policy: spec.network.policy, limits: spec.network.limits };
  return { ...rest, network };
}
