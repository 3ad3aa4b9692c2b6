/** Fills secrets into the head of one request: into field values, Basic credentials and the query. Pure. */
import { type Field, isFraming, type RequestHead } from '../http/head.ts';
import type { EgressSecret } from './secret.ts';

export interface FilledHead {
  /** The head to pass on. */
  readonly forward: string;
  /** Names of the secrets in it. */
  readonly used: readonly string[];
}

/** Request fields that would make an answer compressed or partial, in which secrets can't be found. */
const RESHAPES =
  /^(?:accept-encoding|te|sec-websocket-extensions|range|if-range|request-range|http2-settings)$/i;
/** Beside framing fields: those that proxies on the way read or log. */
const UNTOUCHED = /^(?:te|expect|max-forwards|via|forwarded|x-forwarded-.*)$/i;

/** @param secrets of the request's host */
export function fillHead(head: RequestHead, secrets: readonly EgressSecret[]): FilledHead {
  const used = new Set<EgressSecret>();
  const fill = (text: string, write: (value: string) => string): string =>
    secrets.reduce((filled, secret) => {
      if (!filled.includes(secret.placeholder)) return filled;
      used.add(secret);
      return filled.replaceAll(secret.placeholder, () => write(secret.value.reveal()));
    }, text);
  const fillField = ({ name, value }: Field): Field => {
    if (isFraming(name) || UNTOUCHED.test(name)) return { name, value };
    const basic = /^(basic +)([A-Za-z0-9+/]+={0,2})$/i.exec(value);
    if (basic === null) return { name, value: fill(value, (secret) => secret) };
    const [, scheme = '', before = ''] = basic;
    const pair = Buffer.from(before, 'base64').toString('latin1');
    const filled = fill(pair, (secret) => secret);
    if (filled === pair) return { name, value: fill(value, (secret) => secret) };
    const after = Buffer.from(filled, 'latin1').toString('base64');
    return { name, value: `${scheme}${after}` };
  };
  const [path = '', ...query] = head.path.split('?');
  const target =
    query.length === 0 ? head.path : `${path}?${fill(query.join('?'), encodeURIComponent)}`;
  const fields = head.fields.map(fillField);
  // Also without a placeholder: an earlier request may have stored a secret in the session.
  const sent = [
    ...fields.filter(({ name }) => !RESHAPES.test(name)),
    { name: 'Accept-Encoding', value: 'identity' },
  ];
  const lines = [
    `${head.method} ${target} ${head.version}`,
    ...sent.map(({ name, value }) => `${name}: ${value}`),
  ];
  const forward = `${lines.join('\r\n')}\r\n\r\n`;
  return { forward, used: [...used].map(({ name }) => name) };
}
