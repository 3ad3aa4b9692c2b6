/**
 * Secrets of a sandbox, as they are asked for and as they are told. Their values are in memory only: what is
 * written down of a sandbox has names, hosts and placeholders (`docs/decisions/0011-secrets.md`).
 */
import { newPlaceholder, SecretValue } from '../base/secret-value.ts';
import { SandboxError } from './errors.ts';
import { LIMITS, RANGES } from './limits.ts';

export interface SecretOptions {
  /** Of the guest's variable, in which its placeholder is. */
  readonly name: string;
  /** Host names; HTTPS at their port 443. */
  readonly hosts: readonly string[];
  /** 16 to 4096 visible ASCII characters. */
  readonly value: string;
}

export interface SandboxSecret {
  readonly name: string;
  readonly hosts: readonly string[];
  /** What the guest has instead. Stays the same while programs may hold it: over changes of the value, pauses, forks. */
  readonly placeholder: string;
  /** Null: this process was never told, for another one has held the sandbox. */
  readonly value: SecretValue | null;
}

/** What may be known of it. */
export interface SecretInfo {
  readonly name: string;
  readonly hosts: readonly string[];
  /** False: its value has to be given again, for the process that had it has ended. */
  readonly held: boolean;
}

const NAME = /^[A-Za-z_][A-Za-z0-9_]{0,127}$/;
const HOST = /^(?=.{1,253}$)(?:[a-z0-9_-]{1,63}\.)+[a-z0-9_-]{1,63}$/;
/** Such a name could be read as an address. */
const ADDRESS = /\.(?:\d+|0x[0-9a-f]*)$/;

/**
 * @param before those that the sandbox has: of the same name, the placeholder stays
 * @throws SandboxError `spec_invalid`, which never says a value
 */
export function makeSecrets(
  options: readonly SecretOptions[],
  before: readonly SandboxSecret[] = [],
): readonly SandboxSecret[] {
  const { secretsMax } = LIMITS;
  check(options.length <= secretsMax, 'secrets', `at most ${secretsMax}`);
  const names = new Set(options.map(({ name }) => name));
  check(names.size === options.length, 'secrets', 'two have the same name');
  return options.map(({ name, hosts, value }) => {
    check(NAME.test(name), 'secrets', `"${name.slice(0, 128)}" is no variable name`);
    checkValue(name, value);
    const known = before.find((one) => one.name === name);
    return {
      name,
      hosts: makeHosts(name, hosts),
      placeholder: known?.placeholder ?? newPlaceholder(value.length),
      value: new SecretValue(value),
    };
  });
}

/** What is read from the disk, with the values that this process has. */
export function withValues(
  stored: readonly SandboxSecret[],
  known: readonly SandboxSecret[],
): readonly SandboxSecret[] {
  return stored.map((secret) => {
    const same = known.find((one) => one.placeholder === secret.placeholder);
    return { ...secret, value: secret.value ?? same?.value ?? null };
  });
}

/** @throws SandboxError `secrets_missing`: the placeholders would go out as they are */
export function requireValues(id: string, secrets: readonly SandboxSecret[]): void {
  const missing = secrets.filter(({ value }) => value === null).map(({ name }) => name);
  if (missing.length === 0) return;
  const [first = ''] = missing;
  const text = `sandbox ${id} has secrets whose values ended with the process that held them: ${missing.join(', ')}`;
  throw new SandboxError('secrets_missing', text, {
    remedy: `Give them again: neurovisor update ${id} --secret ${first}@HOST, for all of them at once.`,
  });
}

export function secretInfo(secrets: readonly SandboxSecret[]): readonly SecretInfo[] {
  return secrets.map(({ name, hosts, value }) => ({ name, hosts, held: value !== null }));
}

/** The guest's variables. */
export function placeholdersOf(
  secrets: readonly SandboxSecret[],
): Readonly<Record<string, string>> {
  return Object.fromEntries(secrets.map(({ name, placeholder }) => [name, placeholder]));
}

function makeHosts(name: string, hosts: readonly string[]): readonly string[] {
  const { secretHostsMax: hostsMax } = LIMITS;
  check(hosts.length > 0 && hosts.length <= hostsMax, name, `one to ${hostsMax} hosts`);
  return [...new Set(hosts.map((host) => makeHost(name, host)))];
}

/** One destination is the point of it, so no pattern; and HTTPS, so no other port. */
function makeHost(name: string, text: string): string {
  const host = text.toLowerCase().replace(/:443$/, '').replace(/\.$/, '');
  const isHost = HOST.test(host) && !ADDRESS.test(host);
  check(!/:\d+$/.test(host), name, `"${shown(text)}": secrets are put in at port 443 only`);
  check(isHost, name, `"${shown(text)}" is no host name such as api.example.com`);
  return host;
}

function checkValue(name: string, value: string): void {
  const { min, max } = RANGES.secretCharacters;
  check(
    value.length >= min && value.length <= max,
    name,
    `a value has ${min} to ${max} characters, this one has ${value.length}`,
  );
  // It goes into a line of HTTP, and must be told from what else is there.
  const isVisible = /^[\x21-\x7e]*$/.test(value);
  check(isVisible, name, 'a value has visible ASCII characters only, no spaces, no line ends');
}

function shown(text: string): string {
  return text.slice(0, 80);
}

function check(ok: boolean, field: string, why: string): asserts ok {
  if (!ok) throw new SandboxError('spec_invalid', `sandbox option secrets: ${field}: ${why}`);
}
