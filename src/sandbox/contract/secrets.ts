/**
 * Secrets of a sandbox. Their values stay in memory; the disk has only names, hosts, places and placeholders
 * (`docs/decisions/0011-secrets.md`).
 */
import {
  isPlace,
  isSamePlace,
  PLACE_NAME_CHARACTERS_MAX,
  placeText,
  type SecretPlace,
} from '../../base/request/secret-place.ts';
import { newPlaceholder, SecretValue } from '../../base/request/secret-value.ts';
import { SandboxError } from './errors.ts';
import { RANGES, REQUEST_LIMITS } from './limits.ts';
import { type SecretOptions, secrets as secretsSchema } from './schema/network.ts';
import { parse } from './schema/parse.ts';
import type { SecretInfo } from './schema/sandbox.ts';

export type { RequestHeaderOptions, SecretOptions } from './schema/network.ts';
export type { SecretInfo } from './schema/sandbox.ts';

export interface SandboxSecret {
  readonly name: string;
  /** Name of the header field that the gateway sets to the value; the guest then has no placeholder. */
  readonly sets?: string | undefined;
  readonly hosts: readonly string[];
  /** If empty, the usual credential fields. */
  readonly places: readonly SecretPlace[];
  /** Stands for the value in the guest. Survives changes of the value, pauses and forks, since programs may hold it. */
  readonly placeholder: string;
  /** Name on the host of the stored secret, which is looked up at each use; `value` is `null`. */
  readonly stored?: string | undefined;
  /** `null` if unknown here, because another process owned the sandbox. */
  readonly value: SecretValue | null;
}

/** Values of any length may follow. */
const STORED_PLACEHOLDER_CHARACTERS = 40;
const NAME = /^[A-Za-z_][A-Za-z0-9_]{0,127}$/;
const HOST = /^(?=.{1,253}$)(?:[a-z0-9_-]{1,63}\.)+[a-z0-9_-]{1,63}$/;
/** A name that could be parsed as an address. */
const ADDRESS = /\.(?:\d+|0x[0-9a-f]*)$/;

/**
 * @param before the current secrets; a new one of the same name keeps its placeholder
 * @throws SandboxError `spec_invalid`; the message never contains a value
 */
export function makeSecrets(
  given: readonly SecretOptions[],
  before: readonly SandboxSecret[] = [],
): readonly SandboxSecret[] {
  const options = parse(secretsSchema, given, 'secrets');
  const names = new Set(options.map(({ name }) => name));
  check(names.size === options.length, 'secrets', 'two have the same name');
  return options.map(({ name, hosts, places = [], value, stored }) => {
    check(NAME.test(name), 'secrets', `"${name.slice(0, 128)}" is not a variable name`);
    check((value === undefined) !== (stored === undefined), name, 'expected either a value or a stored secret');
    if (value !== undefined) checkValue(name, value);
    const known = before.find((one) => one.sets === undefined && one.name === name);
    return {
      name,
      hosts: makeHosts(name, hosts),
      places: makePlaces(name, places),
      placeholder: known?.placeholder ?? newPlaceholder(value?.length ?? STORED_PLACEHOLDER_CHARACTERS),
      ...(stored === undefined ? {} : { stored }),
      value: value === undefined ? null : new SecretValue(value),
    };
  });
}

/** Returns secrets read from disk with the values that this process has. */
export function withValues(
  stored: readonly SandboxSecret[],
  known: readonly SandboxSecret[],
): readonly SandboxSecret[] {
  return stored.map((secret) => {
    const same = known.find((one) => one.placeholder === secret.placeholder);
    return { ...secret, value: secret.value ?? same?.value ?? null };
  });
}

/** @throws SandboxError `secrets_missing`; without values the placeholders would be sent */
export function requireValues(id: string, secrets: readonly SandboxSecret[]): void {
  const missing = secrets.filter(({ value, stored }) => value === null && stored === undefined);
  const [first] = missing;
  if (first === undefined) return;
  const names = [...new Set(missing.map(({ name }) => name))].join(', ');
  const text = `sandbox ${id} has secrets whose values are lost with the process that held them: ${names}`;
  const remedy =
    first.sets === undefined
      ? `set all of them again: neurovisor update ${id} --secret ${secretText(first)}`
      : 'set all of them again: requestHeaders of PATCH /v1/sandboxes/ID, or rules of E2B’s updateNetwork';
  throw new SandboxError('secrets_missing', text, { remedy });
}

/** In the syntax of `--secret`, so that a place is not lost when the value is set again. */
function secretText({ name, hosts, places }: SandboxSecret): string {
  const where = places.length === 0 ? '' : `:${places.map(placeText).join(',')}`;
  return `${name}@${hosts.join(',')}${where}`;
}

export function secretInfo(secrets: readonly SandboxSecret[]): readonly SecretInfo[] {
  return secrets.map(({ name, sets, hosts, places, value, stored }) => ({
    name,
    ...(sets === undefined ? {} : { sets }),
    hosts,
    places,
    ...(stored === undefined ? {} : { stored }),
    held: stored !== undefined || value !== null,
  }));
}

export function placeholdersOf(secrets: readonly SandboxSecret[]): Readonly<Record<string, string>> {
  const known = secrets.filter(({ sets }) => sets === undefined);
  return Object.fromEntries(known.map(({ name, placeholder }) => [name, placeholder]));
}

function makeHosts(name: string, hosts: readonly string[]): readonly string[] {
  check(hosts.length > 0, name, `1 to ${REQUEST_LIMITS.secretHostsMax} hosts`);
  return [...new Set(hosts.map((host) => makeHost(name, host)))];
}

/** Refuses patterns, since a secret is for one destination, and ports, since it is sent over HTTPS only. */
function makeHost(name: string, text: string): string {
  const host = text.toLowerCase().replace(/:443$/, '').replace(/\.$/, '');
  const isHost = isSecretHost(host);
  check(!/:\d+$/.test(host), name, `"${shown(text)}": secrets are inserted on port 443 only`);
  check(isHost, name, `"${shown(text)}" is not a host name such as api.example.com`);
  return host;
}

/** @param host in lower case */
export function isSecretHost(host: string): boolean {
  return HOST.test(host) && !ADDRESS.test(host);
}

function makePlaces(name: string, places: readonly SecretPlace[]): readonly SecretPlace[] {
  for (const place of places) {
    const why = `"${shown(placeText(place))}" is no place for a secret: use header=FIELD, but no field that frames, routes or reshapes the request, or query=PARAMETER, with at most ${PLACE_NAME_CHARACTERS_MAX} characters`;
    check(isPlace(place), name, why);
  }
  const isNew = (place: SecretPlace, index: number): boolean =>
    places.findIndex((one) => isSamePlace(one, place)) === index;
  return places.filter(isNew).map(({ in: kind, name: text }) => ({ in: kind, name: text }));
}

/** @throws SandboxError `spec_invalid`; the message never contains the value */
export function checkValue(name: string, value: string): void {
  const { min, max } = RANGES.secretCharacters;
  check(
    value.length >= min && value.length <= max,
    name,
    `a value has ${min} to ${max} characters, this one has ${value.length}`,
  );
  // The value becomes part of an HTTP header.
  const isVisible = /^[\x21-\x7e]*$/.test(value);
  check(isVisible, name, 'a value has visible ASCII characters only, without spaces or line breaks');
}

function shown(text: string): string {
  return text.slice(0, 80);
}

function check(ok: boolean, field: string, why: string): asserts ok {
  if (!ok) throw new SandboxError('spec_invalid', field === 'secrets' ? `secrets: ${why}` : `secret ${field}: ${why}`);
}
