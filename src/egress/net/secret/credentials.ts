/**
 * Names under which requests carry credentials. Pure.
 *
 * The fields that get a secret by default are a closed list, since a guest chooses the names. What counts as another
 * credential is defined broadly: a refusal tells the guest what to change.
 */
import type { SecretPlace } from '../../../base/request/secret-place.ts';
import type { Field } from '../http/head.ts';

/** In lower case. Servers read these as credentials, and store none of them as data of a request. */
const DEFAULT_FIELDS: readonly string[] = [
  'authorization',
  'x-api-key',
  'api-key',
  'apikey',
  'x-apikey',
  'x-api-token',
  'x-auth-token',
  'x-auth-key',
  'x-access-token',
  'x-goog-api-key',
  'private-token',
  'job-token',
  'deploy-token',
  'ocp-apim-subscription-key',
  'x-subscription-token',
  'x-rapidapi-key',
  'x-vault-token',
  'x-shopify-access-token',
  'x-figma-token',
  'x-postmark-server-token',
  'dd-api-key',
  'dd-application-key',
  'xi-api-key',
];

export const DEFAULT_PLACES: readonly SecretPlace[] = DEFAULT_FIELDS.map((name) => ({ in: 'header', name }));

const FIELD =
  /(?:auth|authorization|token|key|secret|password|passwd|passphrase|pass|credentials?|signature|sig|signatureinput|jwt|assertion|ticket|session|dpop|cert)$/;
/** Names that end like credentials and are none: of retries, pages, caches, forgery checks and encryption. */
const HARMLESS_FIELD =
  /(?:(?:idempotency|websocket|surrogate|cache|routing|partition|encryption|encryptioncustomer|sort)key|(?:idempotency|csrf|xsrf|atlassian|page|continuation|next|sync)token)$/;
/** Stored beside an object, and never read as credentials: `x-amz-meta-token`. */
const METADATA = /^x-(?:[a-z]+-)*meta-/i;
/** Browsers have no other WebSocket field for credentials. */
const IN_PROTOCOL = /key|token|auth|bearer/i;

const PARAMETER =
  /^(?:key|token|auth|sig|sign|hmac|pass|passwd|pwd|ticket|session|sid)$|(?:authorization|signature|secret|password|jwt|assertion|(?:access|api|app|auth|bearer|id|job|login|oauth|private|refresh|security|session)token|(?:access|api|app|auth|secret|subscription)key)$/;
const PLAIN = /^[a-z0-9]*$/;

/** True if a server may take this field for a credential. */
export function isCredentialField({ name, value }: Field): boolean {
  if (value === '' || METADATA.test(name)) return false;
  const plain = plainName(name).replace(/\d+$/, '');
  if (plain === 'secwebsocketprotocol') return IN_PROTOCOL.test(value);
  return FIELD.test(plain) && !HARMLESS_FIELD.test(plain);
}

/** Browsers and SDKs send cookies automatically, e.g. those of a load balancer. */
export function isCookie(name: string): boolean {
  return /^cookie2?$/.test(plainName(name));
}

/**
 * True if a server may take a parameter of this name for a credential. Some end the name at a NUL, and read `token[0]`
 * as the list `token`. @param name may be percent-encoded
 */
export function isCredentialParameter(name: string): boolean {
  return spellingsOfParameter(name).some((spelling) => PARAMETER.test(spelling));
}

/** The spellings that servers may take for the name, in the form of `plainName`. @param name may be percent-encoded */
export function spellingsOfParameter(name: string): readonly string[] {
  const [base = ''] = decoded(name).split(/[[\0]/, 1);
  return [plainName(name), plainName(base)];
}

/** Servers differ in case and punctuation: `X_Api_Key`, `api-key`, `key[]`. @param name may be percent-encoded */
export function plainName(name: string): string {
  const lower = (name.includes('%') ? decoded(name) : name).toLowerCase();
  return PLAIN.test(lower) ? lower : lower.replaceAll(/[^a-z0-9]/g, '');
}

function decoded(name: string): string {
  return name.replaceAll(/%([0-9a-f]{2})/gi, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
}
