/** Header fields that the gateway sets, with real TLS clients and a real server, on loopback. */
import { once } from 'node:events';
import { createServer } from 'node:https';
import { connect as connectTls } from 'node:tls';
import { afterEach, describe, expect, it } from 'vitest';
import { SecretValue } from '../../src/base/request/secret-value.ts';
import type { EgressSecret } from '../../src/egress/net/secret/secret.ts';
import { eventually } from '../support/eventually.ts';
import { ADDRESS, cleanUp, undo } from '../support/gateway-servers.ts';
import { certificate, HOST, listen } from '../support/gateway-world.ts';
import { listPolicy } from '../support/net-policy.ts';
import { secretGateway } from '../support/secret-world.ts';
import { PLACEHOLDER, SECRETS, TOKEN } from '../support/secrets.ts';

afterEach(cleanUp);

const identity = certificate('a.example,DNS:b.example');
const KEY = 'sk-rule-0123456789abcdef';

const field = (name: string, hosts: readonly string[], value: string): EgressSecret => ({
  name,
  sets: name,
  hosts,
  places: [{ in: 'header', name }],
  placeholder: `NV_SECRET_${name}_0123456789`,
  value: new SecretValue(value),
});
const FIELDS = [
  field('Authorization', ['a.example'], `Bearer ${KEY}`),
  field('X-Trace', ['a.example'], 'on'),
  field('X-Wide', ['*.example'], 'wide'),
];

async function headerWorld(fields: readonly EgressSecret[] = FIELDS) {
  const gateway = await secretGateway(fields, identity.cert);
  const { made } = gateway;
  made.policy = listPolicy({ isOpen: true });
  for (const name of ['a.example', 'b.example']) made.pins.pin(name, [ADDRESS], 60);
  const heard: string[][] = [];
  const server = createServer(identity, (request, response) => {
    heard.push(request.rawHeaders);
    response.setHeader('x-heard', String(request.headers.authorization));
    response.end(JSON.stringify(request.headers));
  });
  server.on('tlsClientError', () => undefined);
  made.internet.set(`${ADDRESS}:443`, await listen(server));
  undo.push(
    () => server.close(),
    () => server.closeAllConnections(),
  );
  const values = (name: string, request = heard.at(-1) ?? []) =>
    request.filter((_, index) => index % 2 === 1 && request[index - 1]?.toLowerCase() === name);
  return { ...gateway, heard, values };
}

describe('header fields that are set', () => {
  it('are in each request to their host, and no answer shows them', async () => {
    const { client, values, heard, uses } = await headerWorld();
    const url = 'https://a.example/x';
    const { out, code } = await client(url, url, '-i');
    expect(code).toBe(0);
    expect(heard).toHaveLength(2);
    expect(values('authorization')).toEqual([`Bearer ${KEY}`]);
    expect(values('x-trace')).toEqual(['on']);
    expect(out).toContain('x-heard: Bearer NV_SECRET_');
    expect(out).not.toContain('sk-rule');
    expect(uses[0]).toMatchObject({ kind: 'filled', names: ['Authorization', 'X-Trace'] });
  });
  it('replace the guest’s fields, in any spelling, and leave the rest', async () => {
    const { client, values } = await headerWorld();
    const own = ['authorization: mine', 'AUTHORIZATION: too', 'X_Trace: off', 'X-Other: kept'];
    await client('https://a.example/', ...own.flatMap((line) => ['-H', line]));
    expect(values('authorization')).toEqual([`Bearer ${KEY}`]);
    expect([values('x-trace'), values('x_trace')]).toEqual([['on'], []]);
    expect(values('x-other')).toEqual(['kept']);
  });
  it('of a pattern apply to names below it, and are not merged with those of a name', async () => {
    const { client, values } = await headerWorld();
    await client('https://b.example/', '-H', 'Authorization: mine');
    expect(values('x-wide')).toEqual(['wide']);
    expect(values('authorization')).toEqual(['mine']);
    await client('https://a.example/');
    expect(values('x-wide')).toEqual([]);
  });
  it('go beside a placeholder, and a placeholder in a replaced field is dropped', async () => {
    const { client, values } = await headerWorld([...SECRETS, ...FIELDS]);
    const url = 'https://a.example/';
    await client(url, '-H', `X-Api-Key: ${PLACEHOLDER}`);
    expect(values('x-api-key')).toEqual([TOKEN]);
    expect(values('authorization')).toEqual([`Bearer ${KEY}`]);
    await client(url, '-H', `Authorization: Bearer ${PLACEHOLDER}`);
    expect(values('authorization')).toEqual([`Bearer ${KEY}`]);
    expect(values('x-api-key')).toEqual([]);
  });
  it('are not in OPTIONS or requests with Max-Forwards, which a proxy may repeat', async () => {
    const { client, values, heard } = await headerWorld();
    await client('https://a.example/', '-X', 'OPTIONS');
    await client('https://a.example/', '-H', 'Max-Forwards: 0');
    expect(heard).toHaveLength(2);
    expect(JSON.stringify(heard)).not.toContain('sk-rule');
    expect(values('x-trace')).toEqual([]);
  });
  it('without a value to hide, answers pass unchanged, including compressed and partial ones', async () => {
    const { client, values } = await headerWorld([field('X-Trace', ['a.example'], 'on')]);
    await client('https://a.example/', '-H', 'Accept-Encoding: gzip', '-H', 'Range: bytes=0-1');
    expect([values('accept-encoding'), values('range')]).toEqual([['gzip'], ['bytes=0-1']]);
  });
  it('another Host inside the same TLS gets none', async () => {
    const { client, heard } = await headerWorld();
    const { out } = await client('https://a.example/', '-H', 'Host: b.example', '-i');
    expect(out).toMatch(/^HTTP\/1\.1 (?:403|421) /);
    expect(heard).toEqual([]);
  });
  it('a change ends connections that began without them, undecrypted', async () => {
    const { made, state } = await headerWorld([]);
    const options = { host: HOST, port: made.port, servername: 'a.example', ca: identity.cert };
    const socket = connectTls(options);
    socket.on('error', () => socket.destroy());
    const closed = once(socket, 'close');
    await once(socket, 'secureConnect');
    made.gateway.judgeSandbox('sb-1');
    expect(made.gateway.stats().connections).toBe(1);
    state.secrets = { ...state.secrets, secrets: FIELDS };
    made.gateway.judgeSandbox('sb-1');
    await eventually(() => expect(made.gateway.stats().connections).toBe(0));
    await closed;
  });
});
