/** The gateway with real HTTP clients and a real server, on loopback: every request is judged. */
import { createServer } from 'node:http';
import { connect } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { helloMessage, records } from '../support/client-hello.ts';
import { eventually } from '../support/eventually.ts';
import { ADDRESS, ALERT, cleanUp, curl, errorOf, httpWorld, nextOf, undo } from '../support/gateway-servers.ts';
import { HOST, listen, talk } from '../support/gateway-world.ts';
import { listPolicy } from '../support/net-policy.ts';

afterEach(cleanUp);

describe('Gateway: HTTP', () => {
  it('passes several requests on one connection', async () => {
    const { made, seen } = await httpWorld();
    const url = 'http://a.example/x?y=1';
    const { out } = await curl(made, url, url, '--next', ...nextOf(made), '-d', 'body');
    expect(out).toBe('GET a.example /x?y=1 0\nPOST a.example /x?y=1 4\n');
    expect(seen).toHaveLength(2);
    expect(made.dialled).toEqual([`${ADDRESS}:80`]);
  });
  it.each([
    ['name_refused', 'http://evil.example/'],
    ['not_pinned', 'http://b.example/'],
    ['not_pinned', 'http://169.254.169.254/latest/meta-data/'],
    ['name_refused', 'http://metadata.google.internal/'],
  ])('refuses with %s: curl %s', async (reason, url) => {
    const { made, seen } = await httpWorld();
    const { out } = await curl(made, url, '-w', '%{http_code}');
    expect(JSON.parse(out.slice(0, -3)).error.code).toBe(reason);
    expect(out.slice(-3)).toBe('403');
    expect(made.reasons()).toEqual([reason]);
    expect(seen).toEqual([]);
    expect(made.dialled).toEqual([]);
  });
  it.each([
    '2852039166',
    '0xa9fea9fe',
    '0251.0376.0251.0376',
    '169.254.43518',
    '169.254.169.254.',
    '[::ffff:169.254.169.254]',
    '[fd00:ec2::254]',
    'metadata.google.internal.',
    'a.example@169.254.169.254',
    'a.example:80:80',
    'a.example, 169.254.169.254',
  ])('sends nothing for the Host %j', async (host) => {
    const { made, seen } = await httpWorld();
    const reply = await talk(made.port, [`GET / HTTP/1.1\r\nHost: ${host}\r\n\r\n`]);
    expect(reply.toString()).toMatch(/^HTTP\/1\.1 40[03] /);
    expect(errorOf(reply)).toMatch(/^(?:http_host_malformed|not_pinned|name_refused)$/);
    expect(seen).toEqual([]);
  });
  const GET = 'GET /1 HTTP/1.1\r\nHost: a.example\r\n\r\n';
  it.each([
    ['another Host', 'name_refused', 'GET /2 HTTP/1.1\r\nHost: evil.example\r\n\r\n'],
    ['absolute form', 'http_host_mismatch', 'GET http://evil.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n'],
    ['CONNECT', 'http_connect', 'CONNECT evil.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n'],
    [
      'CL.TE',
      'http_framing',
      `POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG`,
    ],
    [
      'TE.TE',
      'http_framing',
      `POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n`,
    ],
    [
      'CL.CL',
      'http_framing',
      `POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\nhello`,
    ],
    [
      'an upgrade',
      'http_upgrade',
      'GET / HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n',
    ],
    ['a bare LF', 'http_line_end', 'GET / HTTP/1.1\nHost: a.example\n\n'],
    ['obs-fold', 'http_fold', 'GET / HTTP/1.1\r\nHost: a.example\r\nX: y\r\n\tz\r\n\r\n'],
    ['HTTP/2', 'http_version', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
    ['TLS', 'http_line_end', `${records(helloMessage({ serverName: 'a.example' })).toString('latin1')}\n`],
  ])('refuses %s with %s, first or pipelined', async (_what, reason, request) => {
    const { made, seen } = await httpWorld();
    const first = await talk(made.port, [request]);
    expect(errorOf(first)).toBe(reason);
    expect(seen).toEqual([]);
    for (const pieces of [[GET + request], [GET, request], [...(GET + request)]]) {
      seen.length = 0;
      const reply = (await talk(made.port, pieces)).toString();
      expect(seen).toEqual(['GET a.example /1 0']);
      // The answer to the first, whole, then the refusal.
      expect(reply).toMatch(/^HTTP\/1\.1 200 OK\r\n[\s\S]*GET a\.example \/1 0\n[\s\S]*HTTP\/1\.1 40[03] /);
      expect(errorOf(Buffer.from(reply))).toBe(reason);
    }
    expect(made.gateway.stats().ended.get(reason as never)).toBe(4);
  });
  it('answers a refused later request only after the answer to the earlier one, however late', async () => {
    const { made } = await httpWorld();
    let respond = (_text: string, _isLast: boolean): void => undefined;
    const server = createServer((_request, response) => {
      response.write('first half, ');
      respond = (text, isLast) => (isLast ? response.end(text) : response.write(text));
    });
    made.internet.set(`${ADDRESS}:80`, await listen(server));
    undo.push(() => server.close());
    const socket = connect(made.port, HOST);
    let received = '';
    socket.on('data', (bytes) => {
      received += bytes.toString();
    });
    const closed = new Promise((resolve) => socket.once('close', resolve));
    socket.write(GET);
    await eventually(() => expect(received).toContain('first half'));
    socket.write('GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n');
    await eventually(() => expect(made.reasons()).toEqual(['allowed', 'name_refused']));
    respond('middle, ', false);
    await eventually(() => expect(received).toContain('middle'));
    respond('second half', true);
    await closed;
    expect(received).toMatch(/first half, [\s\S]*middle, [\s\S]*second half\r\n0\r\n\r\nHTTP\/1\.1 403 /);
  });
  it('forwards a request inside of a body as body', async () => {
    const { made, seen } = await httpWorld();
    const inner = 'GET /admin HTTP/1.1\r\nHost: evil.example\r\n\r\n';
    const post = `POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: ${inner.length}\r\n\r\n${inner}`;
    const chunked = `POST / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n${inner.length.toString(16)}\r\n${inner}\r\n0\r\n\r\n`;
    await talk(made.port, [post + chunked]);
    expect(seen).toEqual([`POST a.example / ${inner.length}`, `POST a.example / ${inner.length}`]);
  });
  it('judges methods by the policy', async () => {
    const { made, seen } = await httpWorld();
    await curl(made, 'http://a.example/', '-X', 'TRACE');
    await curl(made, 'http://a.example/', '-X', 'OPTIONS', '--request-target', '*');
    expect(seen).toEqual(['TRACE a.example / 0', 'OPTIONS a.example * 0']);
    made.policy = listPolicy({ names: ['a.example'], methods: ['GET'] });
    const { out } = await curl(made, 'http://a.example/', '-X', 'TRACE');
    expect(JSON.parse(out).error.code).toBe('request_refused');
    expect(seen).toHaveLength(2);
  });
  it('rewrites absolute form to origin form', async () => {
    const { made, seen } = await httpWorld();
    await curl(made, 'http://a.example/', '--request-target', 'http://a.example/abs?1');
    expect(seen).toEqual(['GET a.example /abs?1 0']);
  });
  it('answers 502 for a destination that refuses connections', async () => {
    const { made } = await httpWorld();
    made.internet.delete(`${ADDRESS}:80`);
    const reply = await talk(made.port, [GET]);
    expect(reply.toString()).toMatch(/^HTTP\/1\.1 502 /);
    expect(made.reasons()).toEqual(['allowed', 'unreachable']);
  });
  it('decides the protocol of other ports by the first byte', async () => {
    const { made } = await httpWorld();
    made.destination = { address: ADDRESS, port: 8443 };
    expect(await talk(made.port, [records(helloMessage({ serverName: 'evil.example' }))])).toEqual(ALERT);
    expect(errorOf(await talk(made.port, [GET]))).toBe('port_mismatch');
  });
});
