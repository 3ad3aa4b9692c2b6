/**
 * Header fields that the gateway sets in a sandbox's requests. They are kept with its secrets, since their values are
 * secret.
 */
import { isPlace } from '../../base/request/secret-place.ts';
import { newPlaceholder, SecretValue } from '../../base/request/secret-value.ts';
import { SandboxError } from './errors.ts';
import { REQUEST_LIMITS } from './limits.ts';
import { requestHeaders } from './schema/network.ts';
import { parse } from './schema/parse.ts';
import { isSecretHost, type RequestHeaderOptions, type SandboxSecret } from './secrets.ts';

/** Replaces the value in answers; long enough that two values get different placeholders. */
const PLACEHOLDER_CHARACTERS = 48;
const SHOWN_CHARACTERS_MAX = 80;
/** Fields of a single connection or its upgrade. */
const OF_CONNECTION = /^(?:keep-alive|proxy-.*|sec-websocket-.*)$/i;

/** @throws SandboxError `spec_invalid`; the message never contains a value */
export function makeRequestHeaders(options: readonly RequestHeaderOptions[]): readonly SandboxSecret[] {
  const made = parse(requestHeaders, options, 'requestHeaders').map(({ name, hosts, value }): SandboxSecret => {
    checkName(name);
    const text = value.replace(/^[ \t]+|[ \t]+$/g, '');
    checkValue(name, text);
    return {
      name,
      sets: name,
      hosts: makeHosts(name, hosts),
      places: [{ in: 'header', name }],
      placeholder: newPlaceholder(PLACEHOLDER_CHARACTERS),
      value: new SecretValue(text),
    };
  });
  checkTogether(made);
  return made;
}

function checkName(name: string): void {
  const plain = name.replaceAll('_', '-');
  const isFine = [name, plain].every((one) => isPlace({ in: 'header', name: one }) && !OF_CONNECTION.test(one));
  check(
    isFine,
    shown(name),
    'not a header field that can be set: fields that frame, route or reshape a request or belong to one connection (Host, Content-Length, Connection, Transfer-Encoding, Accept-Encoding, …) are the gateway’s',
  );
}

function checkValue(name: string, value: string): void {
  check(/^[\t\x20-\x7e]*$/.test(value), name, 'a value has printable ASCII characters only, without line breaks');
}

function makeHosts(name: string, hosts: readonly string[]): readonly string[] {
  check(hosts.length > 0, name, `1 to ${REQUEST_LIMITS.secretHostsMax} hosts`);
  return [...new Set(hosts.map((text) => makeHost(name, text)))];
}

function makeHost(name: string, text: string): string {
  const host = text.toLowerCase().replace(/\.$/, '');
  const base = host.startsWith('*.') ? host.slice(2) : host;
  // `*.com` is allowed, as `*.example.com` is.
  const isFine = isSecretHost(base) || (base !== host && isSecretHost(`x.${base}`));
  check(isFine, name, `"${shown(text)}" is not a host name such as api.example.com or *.example.com`);
  return host;
}

function checkTogether(made: readonly SandboxSecret[]): void {
  const { requestHeadersOfHostMax: most, requestHeaderBytesOfHostMax: bytesMax } = REQUEST_LIMITS;
  const { requestHeaderBytesMax: totalMax } = REQUEST_LIMITS;
  const total = made.reduce((sum, one) => sum + one.hosts.length * bytesOf(one), 0);
  check(total <= totalMax, '', `at most ${totalMax} bytes, counted for each host`);
  for (const host of new Set(made.flatMap(({ hosts }) => hosts))) {
    const own = made.filter(({ hosts }) => hosts.includes(host));
    const names = new Set(own.map(({ name }) => name.toLowerCase().replaceAll('_', '-')));
    check(names.size === own.length, host, 'a field is set twice');
    check(own.length <= most, host, `at most ${most} fields of one host`);
    const bytes = own.reduce((sum, one) => sum + bytesOf(one), 0);
    check(bytes <= bytesMax, host, `at most ${bytesMax} bytes of one host`);
  }
}

function bytesOf({ name, value }: SandboxSecret): number {
  return name.length + (value?.reveal().length ?? 0);
}

function shown(text: string): string {
  return JSON.stringify(text.slice(0, SHOWN_CHARACTERS_MAX)).slice(1, -1);
}

function check(isFine: boolean, what: string, why: string): void {
  if (isFine) return;
  const where = what === '' ? '' : `${what}: `;
  throw new SandboxError('spec_invalid', `sandbox option requestHeaders: ${where}${why}`);
}
