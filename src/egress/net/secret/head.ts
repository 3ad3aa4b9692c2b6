/**
 * Fills secrets into the head of one request, each at its places, or refuses the request. Pure.
 *
 *     a placeholder elsewhere ─► refused      the guest could store the value with its own account at the host
 *     another credential beside ─► refused    the same, if the server accepts that one
 *     cookies beside ─► dropped               clients send those of load balancers automatically
 *
 * A request without a placeholder passes with its own credentials.
 */
import { isSamePlace, type SecretPlace } from '../../../base/request/secret-place.ts';
import type { Field, RequestHead } from '../http/head.ts';
import {
  DEFAULT_PLACES,
  isCookie,
  isCredentialField,
  isCredentialParameter,
  plainName,
  spellingsOfParameter,
} from './credentials.ts';
import type { EgressSecret } from './secret.ts';

export type PlacementProblem =
  /** A placeholder where its secret is not inserted, or not alone there. */
  | 'secret_misplaced'
  | 'credential_beside_secret'
  /** Its stored secret was removed. */
  | 'secret_missing';

export interface FilledHead {
  readonly ok: true;
  readonly forward: string;
  readonly used: readonly string[];
  /** True if the request had cookies beside a secret, which are not passed on. */
  readonly isWithoutCookies: boolean;
}

export interface RefusedHead {
  readonly ok: false;
  readonly reason: PlacementProblem;
  readonly why: string;
  readonly names: readonly string[];
}

/** Request fields that would make an answer compressed or partial, in which secrets can't be found. */
const RESHAPES = /^(?:accept-encoding|te|sec-websocket-extensions|range|if-range|request-range|http2-settings)$/i;
/** Text before a placeholder in a field: a scheme as in `Bearer …`, a name as in `Token token="…"`. */
const BEFORE = /^(?:[A-Za-z][A-Za-z0-9_-]{0,63} +)?(?:[A-Za-z0-9_.~+@/-]{1,64}[=:])?("?)$/;
const BASIC = /^(basic +)([A-Za-z0-9+/]+={0,2})$/i;
const SHOWN_CHARACTERS_MAX = 64;

/** A piece of the head that is judged and filled alone. */
interface Part {
  readonly what: string;
  /** The text to pass on, filled if there is no problem. */
  readonly text: string;
  readonly found: readonly EgressSecret[];
  readonly problem?: 'elsewhere' | 'not_alone' | undefined;
  /** Absent for the path. */
  readonly place?: SecretPlace;
}

interface FieldPart extends Part {
  readonly place: SecretPlace;
}

export function fillHead(head: RequestHead, ofHost: readonly EgressSecret[]): FilledHead | RefusedHead {
  // Mostly none or one: a guest must not make each of thousands of parameters cost the work of all secrets.
  const secrets = secretsOfHead(head, ofHost);
  const [path = '', ...rest] = head.path.split('?');
  const query = rest.length === 0 ? undefined : rest.join('?').split('&');
  const fields = head.fields.map((field) => fillField(field, secrets));
  const parameters = query?.map((text) => fillParameter(text, secrets));
  const parts: Part[] = [fillPath(path, secrets), ...(parameters ?? []), ...fields];
  const refused = judge(parts, ofHost);
  if (refused !== undefined) return refused;
  const used = secretsIn(parts);
  const isDropped = ({ place, found }: FieldPart): boolean =>
    used.length > 0 && found.length === 0 && isCookie(place.name);
  // Even without a placeholder: an earlier request may have stored a secret in the session.
  const sent = fields.filter((part) => !RESHAPES.test(part.place.name) && !isDropped(part));
  const target = parameters === undefined ? path : `${path}?${textsOf(parameters).join('&')}`;
  const lines = [
    `${head.method} ${target} ${head.version}`,
    ...sent.map(({ place, text }) => `${place.name}: ${text}`),
    'Accept-Encoding: identity',
  ];
  const forward = `${lines.join('\r\n')}\r\n\r\n`;
  return { ok: true, forward, used, isWithoutCookies: fields.some(isDropped) };
}

function judge(parts: readonly Part[], ofHost: readonly EgressSecret[]): RefusedHead | undefined {
  const names = secretsIn(parts);
  if (names.length === 0) return undefined;
  const refuse = (reason: PlacementProblem, why: string): RefusedHead => {
    return { ok: false, reason, why, names };
  };
  const missing = parts.flatMap(({ found }) => found).find(({ isMissing }) => isMissing === true);
  if (missing !== undefined) {
    const remedy = 'the owner of the sandbox can store it again: neurovisor secret create';
    return refuse('secret_missing', `the stored secret of ${missing.name} was removed; ${remedy}`);
  }
  const wrong = parts.find(({ problem }) => problem !== undefined);
  if (wrong !== undefined) return refuse('secret_misplaced', problemText(wrong));
  const filled = parts.filter(({ found }) => found.length > 0);
  const keys = filled.map(({ place }) => keyOf(place));
  const twice = filled[keys.findIndex((key, index) => keys.indexOf(key) < index)];
  if (twice !== undefined) {
    const why = `${twice.what} occurs twice with a placeholder; send it once`;
    return refuse('secret_misplaced', why);
  }
  const placed = placedKeys(ofHost);
  const foreign = parts.find((part) => part.found.length === 0 && isCredential(part, placed));
  if (foreign === undefined) return undefined;
  const why = `${foreign.what} is another credential beside the secret ${names.join(', ')}, whose value could be stored with it; omit it, or make it a secret of the sandbox, too`;
  return refuse('credential_beside_secret', why);
}

function problemText({ what, found, problem, place }: Part): string {
  const [secret] = found;
  const name = secret?.name ?? '';
  if (problem === 'not_alone') {
    const forms =
      place?.in === 'header'
        ? 'send it alone, after a scheme such as Bearer, or as user or password of Basic'
        : 'send it alone';
    return `${what} has more than the placeholder of ${name}; ${forms}`;
  }
  const { places = [] } = secret ?? {};
  const where =
    places.length === 0
      ? 'credential fields such as Authorization and X-Api-Key'
      : places.map((one) => `${one.in} ${one.name}`).join(', ');
  return `the placeholder of ${name} is in ${what}; its secret is inserted only in: ${where}. The owner of the sandbox can name other places: --secret ${name}@HOST:header=FIELD or :query=PARAMETER`;
}

function fillPath(text: string, secrets: readonly EgressSecret[]): Part {
  const found = foundIn(text, secrets);
  return { what: 'the path', text, found, problem: found.length > 0 ? 'elsewhere' : undefined };
}

function fillParameter(text: string, secrets: readonly EgressSecret[]): Part {
  const [name = '', ...rest] = text.split('=');
  const value = rest.join('=');
  const place = { in: 'query', name } as const;
  const what = `the query parameter ${shown(name)}`;
  const found = foundIn(text, secrets);
  const [secret] = found;
  if (secret === undefined) return { what, text, found, place };
  if (!found.every((one) => hasPlace(one, place)))
    return { what: name.includes(secret.placeholder) ? 'the query' : what, text, found, problem: 'elsewhere' };
  if (value !== secret.placeholder) return { what, text, found, problem: 'not_alone', place };
  return { what, text: `${name}=${encodeURIComponent(secret.value.reveal())}`, found, place };
}

/**
 * Name, for messages, of a field that a server may take for a credential, including a cookie; undefined if there is
 * none.
 */
export function foreignField(fields: readonly Field[], ofHost: readonly EgressSecret[]): string | undefined {
  const placed = placedKeys(ofHost);
  const foreign = fields.find(({ name, value }) => {
    const part = { what: '', text: value, found: [], place: { in: 'header', name } } as const;
    return isCookie(name) || isCredential(part, placed);
  });
  return foreign === undefined ? undefined : shown(foreign.name);
}

function placedKeys(secrets: readonly EgressSecret[]): ReadonlySet<string> {
  return new Set(secrets.flatMap(({ places }) => places.map(keyOf)));
}

/** @param placed keys of the places that owners named, in any spelling that a server may take for them */
function isCredential({ text, place }: Part, placed: ReadonlySet<string>): boolean {
  if (place === undefined) return false;
  if (place.in === 'header') {
    const isPlaced = text !== '' && placed.has(keyOf(place));
    return !isCookie(place.name) && (isPlaced || isCredentialField({ name: place.name, value: text }));
  }
  // Some servers also separate parameters by semicolons.
  return text.split(';').some((one) => {
    const [name = '', ...rest] = one.split('=');
    if (rest.join('=') === '') return false;
    const isPlaced = spellingsOfParameter(name).some((spelling) => placed.has(`query ${spelling}`));
    return isPlaced || isCredentialParameter(name);
  });
}

function fillField({ name, value }: Field, secrets: readonly EgressSecret[]): FieldPart {
  const place = { in: 'header', name } as const;
  const scheme = BASIC.exec(value)?.[1] ?? '';
  const pair = basicPair(value);
  const found = secrets.filter(({ placeholder }) => [name, value, pair].some((text) => text.includes(placeholder)));
  const what = `the header field ${shown(name)}`;
  const part = { what, text: value, found, place };
  if (found.length === 0) return part;
  if (!found.every((one) => hasPlace(one, place))) return { ...part, problem: 'elsewhere' };
  const text = scheme !== '' ? filledBasic(scheme, pair, found) : filledAlone(value, found);
  return text === undefined ? { ...part, problem: 'not_alone' } : { ...part, text };
}

/** Each half is a placeholder, or contains none. */
function filledBasic(scheme: string, pair: string, found: readonly EgressSecret[]): string | undefined {
  const colon = pair.indexOf(':');
  const halves = colon < 0 ? [pair] : [pair.slice(0, colon), pair.slice(colon + 1)];
  const filled = halves.map((half) => {
    const secret = found.find(({ placeholder }) => placeholder === half);
    if (secret !== undefined) return secret.value.reveal();
    return foundIn(half, found).length > 0 ? undefined : half;
  });
  if (filled.includes(undefined)) return undefined;
  return `${scheme}${Buffer.from(filled.join(':'), 'latin1').toString('base64')}`;
}

function filledAlone(value: string, found: readonly EgressSecret[]): string | undefined {
  const [secret, ...more] = found;
  const [before = '', after, ...rest] = value.split(secret?.placeholder ?? '');
  const quote = BEFORE.exec(before)?.[1];
  if (secret === undefined || more.length + rest.length > 0 || quote !== after) return undefined;
  return `${before}${secret.value.reveal()}${after}`;
}

function hasPlace({ places }: EgressSecret, place: SecretPlace): boolean {
  return (places.length === 0 ? DEFAULT_PLACES : places).some((one) => isSamePlace(one, place));
}

function keyOf(place: SecretPlace | undefined): string {
  return `${place?.in} ${plainName(place?.name ?? '')}`;
}

function secretsOfHead({ path, fields }: RequestHead, secrets: readonly EgressSecret[]): readonly EgressSecret[] {
  const texts = fields.flatMap(({ name, value }) => [name, value, basicPair(value)]);
  return foundIn([path, ...texts].join('\n'), secrets);
}

/** User and password of Basic credentials, else empty. */
function basicPair(value: string): string {
  return Buffer.from(BASIC.exec(value)?.[2] ?? '', 'base64').toString('latin1');
}

function foundIn(text: string, secrets: readonly EgressSecret[]): readonly EgressSecret[] {
  return secrets.filter(({ placeholder }) => text.includes(placeholder));
}

function secretsIn(parts: readonly Part[]): readonly string[] {
  return [...new Set(parts.flatMap(({ found }) => found.map(({ name }) => name)))];
}

function textsOf(parts: readonly Part[]): readonly string[] {
  return parts.map(({ text }) => text);
}

function shown(name: string): string {
  return name.length > SHOWN_CHARACTERS_MAX ? `${name.slice(0, SHOWN_CHARACTERS_MAX)}…` : name;
}
