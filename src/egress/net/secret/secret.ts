/**
 * Secrets at egress: a guest has a placeholder, which the gateway replaces by the secret in requests to the secret's
 * hosts (`docs/decisions/0011-secrets.md`).
 *
 *     guest ── TLS, our certificate ──► gateway ── TLS, the host's own certificate ──► api.example.com
 *              Authorization: NV_…        │  NV_… → secret in the head of a request
 *                                         │  secret → NV_… in all of the answer
 *
 * `head` fills in secrets at their places, which `credentials` knows · `set-fields` sets fields that the owner wants in
 * every request · `matcher` finds secrets, `scrubber` and `responses` remove them · `exchange` is one connection
 * without I/O · `connection` (io) its two ends · `authority` the certificates.
 */
import type { SecureContext } from 'node:tls';
import type { SecretPlace } from '../../../base/request/secret-place.ts';
import type { SecretValue } from '../../../base/request/secret-value.ts';
import { type EgressPolicy, type NameRule, requestRulesFor } from '../policy/policy.ts';
import { hiddenTexts } from './hidden-texts.ts';
import { Matcher, type Pattern } from './matcher.ts';

export interface EgressSecret {
  /** Name of the guest's variable, or of the field. */
  readonly name: string;
  /** Canonical host names; for a field that is set also `*.name`. */
  readonly hosts: readonly string[];
  /** The header field that is set to the value in each request. If absent, the guest sends a placeholder. */
  readonly sets?: string | undefined;
  /** Where requests carry it; empty for the usual credential fields. */
  readonly places: readonly SecretPlace[];
  /** The guest's substitute: letters, digits, `_` and `-`. */
  readonly placeholder: string;
  /** Visible ASCII. */
  readonly value: SecretValue;
  /** There is no value any more: requests with the placeholder are refused. */
  readonly isMissing?: boolean | undefined;
}

/** The gateway's input for filling in secrets, or judging requests by method and path. */
export interface EgressSecrets {
  /** Empty if requests are only judged. */
  readonly secrets: readonly EgressSecret[];
  readonly authority: { contextFor(host: string): Promise<SecureContext> };
  readonly roots: () => SecureContext;
}

const PORT = 443;

/**
 * Adds the hosts of secrets to an allowlist. Deny rules still win, and so do rules by method and path for such a host.
 * Fields that are set open nothing.
 */
export function withSecretHosts(policy: EgressPolicy, secrets: EgressSecrets | undefined) {
  if (policy.mode !== 'allowlist' || secrets === undefined) return policy;
  const isWhole = (host: string): boolean => requestRulesFor(policy, host).length === 0;
  const replaced = secrets.secrets.filter(({ sets }) => sets === undefined);
  const hosts = new Set(replaced.flatMap((secret) => secret.hosts).filter(isWhole));
  const rules = [...hosts].map((name): NameRule => {
    const ports = { first: PORT, last: PORT };
    return { kind: 'name', text: `${name}:${PORT}`, name, below: false, ports, protocol: 'tcp' };
  });
  return { ...policy, allow: [...policy.allow, ...rules] };
}

/** The secrets that belong to a host. Fields are those of its name, otherwise of the longest `*.name` above it. */
export function secretsOf(secrets: readonly EgressSecret[], host: string): EgressSecret[] {
  const named = new Set(secrets.flatMap(({ sets, hosts }) => (sets === undefined ? [] : hosts)));
  const pattern = named.size === 0 ? host : patternsFor(host).find((one) => named.has(one));
  return secrets.filter(({ hosts, sets }) =>
    sets === undefined ? hosts.includes(host) : pattern !== undefined && hosts.includes(pattern),
  );
}

function patternsFor(host: string): readonly string[] {
  const labels = host.split('.');
  return [host, ...labels.slice(1).map((_, index) => `*.${labels.slice(index + 1).join('.')}`)];
}

export function needsSecrets(secrets: EgressSecrets | undefined, host: string | undefined): secrets is EgressSecrets {
  return secrets !== undefined && host !== undefined && secretsOf(secrets.secrets, host).length > 0;
}

/** Secret lengths within one step are indistinguishable by how much is held back. */
const LENGTHS = [64, 256, 1024, 4096] as const;
/**
 * For each set of secrets, keyed by the indexes of a host's secrets: a guest can name any number of hosts below
 * `*.name`.
 */
const matchers = new WeakMap<readonly EgressSecret[], Map<string, Matcher>>();

/** Finds the secrets of one host in plain and in base64, as in Basic credentials. Built once per set of secrets. */
export function matcherOf(secrets: readonly EgressSecret[], host: string): Matcher {
  const known = matchers.get(secrets) ?? new Map<string, Matcher>();
  matchers.set(secrets, known);
  const own = secretsOf(secrets, host);
  const texts = own.flatMap((secret) => textsOf(secret).map((find) => ({ secret, find })));
  const longest = texts.reduce((most, { find }) => Math.max(most, find.length), 0);
  const length = LENGTHS.find((one) => one >= longest) ?? longest;
  const key = own.map((secret) => secrets.indexOf(secret)).join();
  const made =
    known.get(key) ??
    new Matcher(
      texts.flatMap(({ secret, find }) => patternsOf(find, secret.placeholder)),
      base64Characters(length),
    );
  known.set(key, made);
  return made;
}

/** True if answers of a host with these secrets may contain something to hide from the guest. */
export function hidesAny(ofHost: readonly EgressSecret[]): boolean {
  return ofHost.some((secret) => textsOf(secret).length > 0);
}

function textsOf({ sets, value, isMissing }: EgressSecret): readonly string[] {
  if (isMissing === true) return [];
  return sets === undefined ? [value.reveal()] : hiddenTexts(sets, value.reveal());
}

function patternsOf(find: string, placeholder: string): Pattern[] {
  const put = placeholder.padEnd(find.length, '*').slice(0, find.length);
  const alphabets = ['base64', 'base64url'] as const;
  const encoded = [0, 1, 2].flatMap((offset) =>
    alphabets.map((alphabet) => base64Pattern(find, put, offset, alphabet)),
  );
  const isNew = ({ find: text }: Pattern, index: number): boolean =>
    encoded.findIndex((one) => one.find === text) === index;
  return [{ find, put: placeholder }, ...encoded.filter(isNew)];
}

/** @param offset bytes before it in its base64 group of three */
function base64Pattern(find: string, put: string, offset: number, alphabet: 'base64' | 'base64url'): Pattern {
  const encode = (text: string): string =>
    Buffer.from(`${'\0'.repeat(offset)}${text}`, 'latin1')
      .toString(alphabet)
      .replace(/=+$/, '');
  const digits = Buffer.from(encode(put), 'latin1');
  const bits = 8 * (offset + find.length);
  const first = Math.ceil((8 * offset) / 6);
  const end = Math.floor(bits / 6);
  const digitOf = (index: number): number =>
    Buffer.from(`AAA${String.fromCharCode(digits[index] ?? 0)}`, 'base64')[2] ?? 0;
  const edge = (index: number, mask: number) => (mask === 0 ? undefined : { mask, bits: digitOf(index) & mask });
  return {
    find: encode(find).slice(first, end),
    put: encode(put).slice(first, end),
    before: edge(first - 1, [0, 0b001111, 0b000011][offset] ?? 0),
    after: edge(end, [0, 0, 0b110000, 0, 0b111100][bits % 6] ?? 0),
    alphabet,
  };
}

function base64Characters(bytes: number): number {
  return Math.ceil(((bytes + 2) * 4) / 3);
}

export function placeholdersIn(secrets: readonly EgressSecret[], text: string): string[] {
  return secrets
    .filter(({ sets, placeholder }) => sets === undefined && text.includes(placeholder))
    .map(({ name }) => name);
}
