/**
 * Secrets at egress: a guest has a placeholder, which the gateway replaces by the secret in requests to the secret's
 * hosts (`docs/decisions/0011-secrets.md`).
 *
 *     guest ── TLS, our certificate ──► gateway ── TLS, the host's own certificate ──► api.example.com
 *              Authorization: NV_…        │  NV_… → secret in the head of a request
 *                                         │  secret → NV_… in all of the answer
 *
 * `head` fills secrets in at their places, which `credentials` knows · `matcher` finds them, `scrubber` and `responses` take them out · `exchange` is one
 * connection without I/O · `connection` (io) its two ends · `authority` the certificates.
 */
import type { SecureContext } from 'node:tls';
import type { SecretPlace } from '../../base/secret-place.ts';
import type { SecretValue } from '../../base/secret-value.ts';
import { type EgressPolicy, type NameRule, requestRulesFor } from '../policy/policy.ts';
import { Matcher, type Pattern } from './matcher.ts';

export interface EgressSecret {
  /** The name of the guest's variable. */
  readonly name: string;
  /** Canonical host names. */
  readonly hosts: readonly string[];
  /** Where requests have it; empty: in the usual credential fields. */
  readonly places: readonly SecretPlace[];
  /** The guest's substitute: letters, digits, `_` and `-`. */
  readonly placeholder: string;
  /** Visible ASCII. */
  readonly value: SecretValue;
}

/** What a gateway needs to fill in secrets, or to judge requests by method and path. */
export interface EgressSecrets {
  /** Empty: only requests are judged. */
  readonly secrets: readonly EgressSecret[];
  /** Issues certificates that the guest trusts. */
  readonly authority: { contextFor(host: string): Promise<SecureContext> };
  /** The roots that servers are verified against. */
  readonly roots: () => SecureContext;
}

/** The port on which secrets are filled in. */
const PORT = 443;

/**
 * Adds the hosts of secrets to what an allowlist allows. Deny rules still win, and so do rules by method and path
 * for such a host.
 */
export function withSecretHosts(policy: EgressPolicy, secrets: EgressSecrets | undefined) {
  if (policy.mode !== 'allowlist' || secrets === undefined) return policy;
  const isWhole = (host: string): boolean => requestRulesFor(policy, host).length === 0;
  const hosts = new Set(secrets.secrets.flatMap((secret) => secret.hosts).filter(isWhole));
  const rules = [...hosts].map((name): NameRule => {
    const ports = { first: PORT, last: PORT };
    return { kind: 'name', text: `${name}:${PORT}`, name, below: false, ports, protocol: 'tcp' };
  });
  return { ...policy, allow: [...policy.allow, ...rules] };
}

/** The secrets that belong to a host. */
export function secretsOf(secrets: readonly EgressSecret[], host: string): EgressSecret[] {
  return secrets.filter(({ hosts }) => hosts.includes(host));
}

/** Whether TLS to this host must be decrypted. */
export function needsSecrets(
  secrets: EgressSecrets | undefined,
  host: string | undefined,
): secrets is EgressSecrets {
  return secrets !== undefined && host !== undefined && secretsOf(secrets.secrets, host).length > 0;
}

/** Secret lengths within one step are indistinguishable by how much is held back. */
const LENGTHS = [64, 256, 1024, 4096] as const;
const matchers = new WeakMap<readonly EgressSecret[], Map<string, Matcher>>();

/** Finds the secrets of one host in plain and in base64, as in Basic credentials. Built once per set of secrets. */
export function matcherOf(secrets: readonly EgressSecret[], host: string): Matcher {
  const known = matchers.get(secrets) ?? new Map<string, Matcher>();
  matchers.set(secrets, known);
  const own = secretsOf(secrets, host);
  const longest = own.reduce((most, { value }) => Math.max(most, value.reveal().length), 0);
  const length = LENGTHS.find((one) => one >= longest) ?? longest;
  const made = known.get(host) ?? new Matcher(own.flatMap(patternsOf), base64Characters(length));
  known.set(host, made);
  return made;
}

function patternsOf({ value, placeholder }: EgressSecret): Pattern[] {
  const find = value.reveal();
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
function base64Pattern(
  find: string,
  put: string,
  offset: number,
  alphabet: 'base64' | 'base64url',
): Pattern {
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
  const edge = (index: number, mask: number) =>
    mask === 0 ? undefined : { mask, bits: digitOf(index) & mask };
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

/** Names of the secrets whose placeholder is in a text. */
export function placeholdersIn(secrets: readonly EgressSecret[], text: string): string[] {
  return secrets.filter(({ placeholder }) => text.includes(placeholder)).map(({ name }) => name);
}
