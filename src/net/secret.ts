/**
 * Secrets at egress: a guest holds a placeholder, and the host puts the secret in its place in requests to
 * the hosts that it belongs to (`docs/decisions/0011-secrets.md`).
 *
 *     guest ── TLS, our certificate ──► gateway ── TLS, the host's own certificate ──► api.example.com
 *              Authorization: NV_…        │  NV_… → secret in the head of a request
 *                                         │  secret → NV_… in all of the answer
 *
 * `secret-head` puts them in · `secret-scrubber`, `secret-responses` take them out · `secret-exchange` one
 * connection without I/O · `secret-connection` (io) its two ends · `secret-authority` the certificates.
 */
import type { SecureContext } from 'node:tls';
import type { SecretValue } from '../base/secret-value.ts';
import type { EgressPolicy, NameRule } from './policy.ts';
import { type Mask, maskOf } from './secret-scrubber.ts';

export interface EgressSecret {
  /** Of the guest's variable; for people. */
  readonly name: string;
  /** Canonical host names. */
  readonly hosts: readonly string[];
  /** What the guest has instead of it. Letters, digits, `_` and `-`. */
  readonly placeholder: string;
  /** Visible ASCII. */
  readonly value: SecretValue;
}

/** What a gateway must have to put secrets in. */
export interface EgressSecrets {
  readonly secrets: readonly EgressSecret[];
  /** Certificates in which the guest trusts. */
  readonly authority: { contextFor(host: string): Promise<SecureContext> };
  /** By which servers are known. */
  readonly roots: () => SecureContext;
}

/** Where secrets are put in. */
const PORT = 443;

/** What a list allows, and the hosts that secrets belong to; what is denied stays so. */
export function withSecretHosts(policy: EgressPolicy, secrets: EgressSecrets | undefined) {
  if (policy.mode !== 'allowlist' || secrets === undefined) return policy;
  const hosts = new Set(secrets.secrets.flatMap((secret) => secret.hosts));
  const rules = [...hosts].map((name): NameRule => {
    const ports = { first: PORT, last: PORT };
    return { kind: 'name', text: `${name}:${PORT}`, name, below: false, ports, protocol: 'tcp' };
  });
  return { ...policy, allow: [...policy.allow, ...rules] };
}

/** All secrets of a sandbox whose hosts this one is of. */
export function secretsOf(secrets: readonly EgressSecret[], host: string): EgressSecret[] {
  return secrets.filter(({ hosts }) => hosts.includes(host));
}

/** TLS to this host is to be decrypted. */
export function needsSecrets(
  secrets: EgressSecrets | undefined,
  host: string | undefined,
): secrets is EgressSecrets {
  return secrets !== undefined && host !== undefined && secretsOf(secrets.secrets, host).length > 0;
}

/** In every spelling in which a server could tell it back. */
export function masksOf({ value, placeholder }: EgressSecret): Mask[] {
  const text = value.reveal();
  const json = JSON.stringify(text).slice(1, -1);
  const percent = encodeURIComponent(text);
  const spellings = [
    ...[text, percent, percent.replaceAll(/%../g, (byte) => byte.toLowerCase())],
    // Some escape the slash too (RFC 8259, section 7).
    ...[json, json.replaceAll('/', '\\/')],
  ];
  return [...new Set(spellings)].map((spelling) => maskOf(spelling, placeholder));
}

/** Names of those whose placeholder is in a text. */
export function placeholdersIn(secrets: readonly EgressSecret[], text: string): string[] {
  return secrets.filter(({ placeholder }) => text.includes(placeholder)).map(({ name }) => name);
}
