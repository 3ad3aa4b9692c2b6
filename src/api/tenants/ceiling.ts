/**
 * What a tenant may ask for. Every field of a request has a rule here, or is `FREE`: a field that is new in the contract
 * does not compile until it does.
 *
 *     tenantPlane ──► checkCreate, checkUpdate, checkFork ──► rules ◄── Ceiling, which the operator sets for the tenant
 */
import { EVERY_HOSTED } from '../../base/request/model-limits.ts';
import { matchesAny } from '../../base/text/glob.ts';
import type { CreateRequest, ForkOptions, SandboxChange, SandboxInfo } from '../../sandbox/contract/control.ts';
import { SandboxError } from '../../sandbox/contract/errors.ts';
import { BUILT_TEMPLATE_NAME } from '../../sandbox/contract/limits.ts';
import type { ModelOptions } from '../../sandbox/contract/model-policy.ts';
import type { NetworkOptions } from '../../sandbox/contract/network-spec.ts';
import type { Ceiling, Sizes } from './settings.ts';

/**
 * Returns the rules to allow that open a private or special range beyond these blocks.
 * @throws SandboxError `spec_invalid`, naming the rule
 */
export type PrivateRules = (allow: readonly string[], blocks: readonly string[]) => readonly string[];

export interface Asker {
  readonly tenant: string;
  readonly ceiling: Ceiling;
  readonly privateRules: PrivateRules;
}

/** @throws SandboxError `forbidden` */
type Rule<T> = (value: T, asker: Asker) => void;
type Rules<T> = { readonly [K in keyof T]-?: typeof FREE | Rule<Exclude<T[K], undefined>> };

/** Concerns the tenant's own sandboxes alone, within its quotas, or is checked for every caller. */
const FREE = 'free';

const REFUSED_SHOWN_MAX = 5;

const checkNetwork = ruleOf<NetworkOptions>({
  mode: FREE,
  // Names never lead to private ranges: the resolver and the gateway judge the addresses.
  allow: (rules, asker) => {
    const { allowNet } = asker.ceiling;
    refuse('network.allow', asker.privateRules(rules, allowNet), allowNet, '--allow-net', asker);
  },
  deny: FREE,
  limits: FREE,
});

// The bridge judges the model of each request: a default or an alias may change, and the operator's list, too.
const checkModels = ruleOf<ModelOptions>({
  defaultModel: FREE,
  allow: FREE,
  aliases: FREE,
  // Hosted models cost the operator's money, and get the prompts.
  allowHosted: (names, asker) => {
    const { allowHosted } = asker.ceiling;
    if (allowHosted.includes(EVERY_HOSTED)) return;
    const refused = names.filter((name) => !allowHosted.includes(name));
    refuse('models.allowHosted', refused, allowHosted, '--allow-hosted', asker);
  },
  // The model server acts on them with the operator's account and networks.
  allowFields: (paths, asker) => {
    const { allowFields } = asker.ceiling;
    const refused = paths.filter((path) => !allowFields.some((own) => path === own || path.startsWith(`${own}.`)));
    refuse('models.allowFields', refused, allowFields, '--allow-field', asker);
  },
  // Orders the tenant's own requests alone: `token-scheduler.ts`.
  priority: FREE,
  budget: FREE,
  cache: FREE,
});

const SIZES = {
  cpus: { most: 'cpusMax', option: '--max-cpus' },
  memoryMib: { most: 'memoryMaxMib', option: '--max-memory' },
  memoryMaxMib: { most: 'memoryMaxMib', option: '--max-memory' },
  diskMib: { most: 'diskMaxMib', option: '--max-disk' },
  timeoutMs: { most: 'timeoutMaxMs', option: '--max-timeout' },
} as const satisfies Record<string, { readonly most: keyof Sizes; readonly option: string }>;
type SizeField = keyof typeof SIZES;

/** @param value `null`: without a limit */
const atMost =
  (field: SizeField): Rule<number | null> =>
  (value, asker) =>
    checkSize({ [field]: value }, asker);

/** Fields that a change has, too. */
const CHANGEABLE: Rules<Omit<SandboxChange, 'models'>> = {
  memoryMib: atMost('memoryMib'),
  timeoutMs: atMost('timeoutMs'),
  onTimeout: FREE,
  idleTimeoutMs: FREE,
  autoResume: FREE,
  onMemoryPressure: FREE,
  metadata: FREE,
  annotations: FREE,
  channelLimits: FREE,
  diskLimits: FREE,
  network: (network, asker) => network && checkNetwork(network, asker),
  secrets: FREE,
  requestHeaders: FREE,
  packages: FREE,
};

const checkRequest = ruleOf<CreateRequest>({
  ...CHANGEABLE,
  name: FREE,
  // What templates, snapshots and forks bring is judged by `TenantQuotas.admit`.
  cpus: atMost('cpus'),
  memoryMaxMib: atMost('memoryMaxMib'),
  diskMib: atMost('diskMib'),
  warm: FREE,
  // `checkPackageLogin`.
  requirements: FREE,
  image: (image, asker) => {
    const { allowImages } = asker.ceiling;
    const refused = matchesAny(allowImages, completeImage(image)) ? [] : [image];
    refuse('image', refused, allowImages, '--allow-image', asker);
  },
  env: FREE,
  models: checkModels,
  console: FREE,
  snapshot: FREE,
  // Names of built ones can't be guessed.
  template: (name, asker) => {
    const { allowTemplates } = asker.ceiling;
    const refused = BUILT_TEMPLATE_NAME.test(name) || matchesAny(allowTemplates, name) ? [] : [name];
    refuse('template', refused, allowTemplates, '--allow-template', asker);
  },
  boot: FREE,
  // The tenant's own: `plane.ts`.
  volumes: FREE,
  queueTimeoutMs: FREE,
});

const checkChange = ruleOf<SandboxChange>({
  ...CHANGEABLE,
  models: ruleOf<NonNullable<SandboxChange['models']>>({ budget: FREE }),
});

const checkForkOptions = ruleOf<ForkOptions>({
  count: FREE,
  name: FREE,
  timeoutMs: atMost('timeoutMs'),
  metadata: FREE,
});

/**
 * Templates and snapshots bring no networks and no models of their own, so the request is all there is to check.
 * @throws SandboxError `forbidden`, `spec_invalid`
 */
export function checkCreate(request: CreateRequest, asker: Asker): void {
  checkRequest(request, asker);
}

/** Whether the host logs in at a host for this caller; `null`: the operator. */
export const loginsOf =
  (asker: Asker | null) =>
  (host: string): boolean =>
    asker === null || matchesAny(asker.ceiling.allowLogins, host);

/**
 * Packages of a template are fetched before there is a sandbox, for all that have the same.
 * @param host where the host logs in for them; `null`: nowhere
 * @throws SandboxError `forbidden`
 */
export function checkPackageLogin(host: string | null, asker: Asker): void {
  if (host === null || loginsOf(asker)(host)) return;
  const { tenant } = asker;
  throw new SandboxError('forbidden', 'requirements: this host logs in at its package index, and not for this key', {
    remedy: `the operator sets that by neurovisor tenant set ${tenant} --allow-login ${host}`,
  });
}

/** @throws SandboxError `forbidden`, `spec_invalid` */
export function checkUpdate(change: SandboxChange, asker: Asker): void {
  checkChange(change, asker);
}

/**
 * Judges a sandbox that is about to run, or the size that a request names.
 * @param asker without `ceiling` fields: no limit
 * @throws SandboxError `forbidden`
 */
export function checkSize(
  size: { readonly [K in SizeField]?: number | null },
  { tenant, ceiling }: { readonly tenant: string; readonly ceiling: Partial<Sizes> },
): void {
  for (const [field, { most, option }] of Object.entries(SIZES)) {
    const value = size[field as SizeField];
    const max = ceiling[most] ?? null;
    if (value === undefined || max === null || (value ?? Number.POSITIVE_INFINITY) <= max) continue;
    throw new SandboxError('forbidden', `${field}: ${value ?? 'no limit'} is above ${max}, the maximum for this key`, {
      remedy: `ask for at most ${max}; the operator sets that by neurovisor tenant set ${tenant} ${option}`,
    });
  }
}

/** A fork inherits what its original has, which the ceiling of that time allowed. @throws SandboxError `forbidden` */
export function checkFork(
  { network, models, cpus, memoryMib, diskMib }: SandboxInfo,
  options: ForkOptions,
  asker: Asker,
): void {
  checkForkOptions(options, asker);
  checkRequest({ network, models, cpus, memoryMib, diskMib }, asker);
}

function ruleOf<T extends object>(rules: Rules<T>): Rule<T> {
  const check = <K extends keyof T>(name: K, value: T, asker: Asker): void => {
    const rule: Rules<T>[K] = rules[name];
    const field = value[name];
    if (typeof rule === 'function' && field !== undefined) rule(field as Exclude<T[K], undefined>, asker);
  };
  const names = Object.keys(rules) as (keyof T)[];
  return (value, asker) => {
    for (const name of names) check(name, value, asker);
  };
}

/** With registry and tag, as Docker completes it. Other transports, and local digests, stay as they are. */
export function completeImage(image: string): string {
  if (/^(?:docker-archive|oci|docker-daemon|sha256):/.test(image)) return image;
  const name = image.replace(/^docker:\/\//, '');
  const [first = ''] = name.split('/');
  const hasRegistry = first !== name && (/[.:[A-Z]/.test(first) || first === 'localhost');
  const full = hasRegistry ? name.replace(/^index\.docker\.io\//, 'docker.io/') : `docker.io/${name}`;
  const complete = full.replace(/^docker\.io\/([^/]*)$/, 'docker.io/library/$1');
  return /@|:[^/]*$/.test(complete) ? complete : `${complete}:latest`;
}

function refuse(
  field: string,
  refused: readonly string[],
  allowed: readonly string[],
  option: string,
  { tenant }: Asker,
): void {
  if (refused.length === 0) return;
  const more = refused.length > REFUSED_SHOWN_MAX ? ', …' : '';
  const which = `${refused.slice(0, REFUSED_SHOWN_MAX).join(', ')}${more}`;
  throw new SandboxError('forbidden', `${field}: ${which}: not for this key`, {
    remedy: `allowed: ${allowed.join(', ') || 'none'}; the operator sets that by neurovisor tenant set ${tenant} ${option}`,
  });
}
