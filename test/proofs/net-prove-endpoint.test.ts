/** The egress suite against another endpoint: it holds behind our network, and fails without one of its walls. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import type { Proof, Tried } from '../../prove/proof.ts';
import type { Asked, Seen } from '../fixtures/prove-endpoint.ts';
import { requiresFullRun } from '../support/requires.ts';

const run = promisify(execFile);
/** One wall at a time: each takes 15 s. */
const inFullRun = requiresFullRun('root', () => true);
const FIXTURE = join(import.meta.dirname, '../fixtures/prove-endpoint.ts');
const HOSTILE = join(import.meta.dirname, '../fixtures/canary-hostile.ts');
const failed = ({ tried }: Proof) => tried.flatMap(({ what, ok }) => (ok ? [] : [what]));

async function suite(asked: Asked): Promise<Seen> {
  const args = ['--net', process.execPath, FIXTURE, JSON.stringify(asked)];
  const { stdout } = await run('unshare', args, { maxBuffer: 4 * 1024 * 1024 });
  return JSON.parse(stdout) as Seen;
}

async function failures(without: Asked['without']): Promise<readonly string[]> {
  const { proof, left } = await suite({ without });
  expect(left).toEqual([]);
  expect(proof?.holds).toBe(false);
  return proof === undefined ? [] : failed(proof);
}

const QUESTIONS = [
  'a name that no rule allows',
  'the same by TCP',
  'the same, as programs ask',
  'a name that carries data in long labels',
  'such a name, of another resolver by UDP',
  'such a name, of another resolver by TCP',
];
const REQUESTS = [
  'an address without a name',
  'Host is another name',
  'Host is forged',
  'no Host',
  'two Hosts',
  'absolute-form to another name',
  'CONNECT to another name',
  'Host with another port',
  'a second request on the connection, with another Host',
  'smuggling: CL.TE',
  'smuggling: TE.CL',
  'smuggling: two lengths',
  'smuggling: an unknown coding',
  'smuggling: a space before the colon',
  'smuggling: a Host behind a bare line feed',
  'metadata: Host: 169.254.169.254',
  'metadata: Host: [::ffff:169.254.169.254]',
  'metadata: Host: metadata.google.internal',
  'metadata: Host: 2852039166',
  'metadata: absolute-form',
];
const NARROWING = ['a connection that is open when its rule is removed', 'an allowed name, after its rule was removed'];
const METADATA = [
  'a redirect to 169.254.169.254',
  'metadata: 169.254.169.254 port 80',
  'metadata: ::ffff:169.254.169.254 port 80',
  'metadata: http://2852039166/',
  'metadata: http://0xa9fea9fe/',
  'metadata: http://0251.0376.0251.0376/',
  'metadata: http://0xa9.0xfe.0xa9.0xfe/',
  'metadata: http://169.254.43518/',
  'metadata: http://169.16689662/',
];
const DEFAULT = ['HTTP', 'TLS', 'another port', 'DNS of another resolver', 'a name'].map(
  (what) => `no policy is named: ${what}`,
);

describe('prove-endpoint', () => {
  it('holds for sandboxes behind our network, and no sandbox is left', async () => {
    const { command, made, left } = await suite({ without: [], isCommand: true });
    expect(command).toMatchObject({ status: 0, stderr: '' });
    const [proof] = JSON.parse(command?.stdout ?? '[]') as Proof[];
    expect(proof).toMatchObject({ name: 'egress', holds: true });
    expect(proof?.tried.length).toBeGreaterThan(100);
    const controls = proof?.tried.filter(({ what }) => what.startsWith('control')) ?? [];
    expect(controls.length).toBeGreaterThan(10);
    expect(made).toBe(4);
    expect(left).toEqual([]);
  });

  it('does not hold if everything is open', async () => {
    const what = await failures(['all']);
    const expected = [
      ...QUESTIONS.filter((each) => each !== 'the same by TCP'),
      'a TXT record of such a name',
      'DNS over TLS',
      'DNS over HTTPS',
      ...REQUESTS,
      'a redirect to a name that no rule allows',
      'SNI is another name',
      'SNI is forged',
      'no SNI',
      'no TLS on port 443',
      'another port of an allowed name',
      'another port of an address',
      'UDP port 443 (QUIC)',
      'UDP port 9999',
      'an allowed name that leads to 169.254.169.254',
      'an allowed name that leads to a private address',
      'an allowed name that leads to 169.254.169.254 from the second time on',
      ...METADATA,
      'metadata: 168.63.129.16 port 80',
      'a private range: 10.0.0.1 port 80',
      ...DEFAULT,
      ...DEFAULT.map((each) => each.replace('no policy is named', 'no internet access')),
    ];
    expect(what).toEqual(expect.arrayContaining(expected));
    expect(what.filter((each) => each.startsWith('control'))).toEqual([]);
  });

  inFullRun.it('if names leave, exactly the DNS tries fail', async () => {
    expect(await failures(['dns'])).toEqual(QUESTIONS);
  });

  inFullRun.it('if Host is not judged, exactly the requests and the narrower policy fail', async () => {
    expect(await failures(['host'])).toEqual([...REQUESTS, ...NARROWING]);
  });

  it('with an open metadata service, an open default or no updates, exactly those fail', async () => {
    const what = await failures(['metadata', 'default', 'updates']);
    expect(what).toEqual([...METADATA, ...NARROWING, ...DEFAULT]);
  });
});

describe('prove-endpoint canary', () => {
  it('records every try, whatever was sent to it before', async () => {
    const { stdout } = await run('unshare', ['--net', process.execPath, HOSTILE]);
    const seen = JSON.parse(stdout) as Tried[];
    expect(seen.length).toBe(8);
    expect(seen.filter(({ ok }) => !ok)).toEqual([]);
  });
});
