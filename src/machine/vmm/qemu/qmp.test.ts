import { Duplex, PassThrough } from 'node:stream';
import { describe, expect, it, vi } from 'vitest';
import { FakeClock } from '../../../base/clock.ts';
import { QMP_LINE_BYTES_MAX, QmpClient, QmpDecoder } from './qmp.ts';

const GREETING = '{"QMP": {"version": {"qemu": {"major": 7}}, "capabilities": []}}\r\n';

/** A client, and QEMU's end, which the test controls. */
function pair() {
  const fromQemu = new PassThrough();
  const sent: { execute: string; id: number; arguments?: unknown }[] = [];
  const toQemu = new PassThrough();
  const written: Buffer[] = [];
  toQemu.on('data', (bytes: Buffer) => {
    written.push(bytes);
    if (bytes[0] === 0xff) return;
    for (const line of bytes.toString().trim().split('\n')) sent.push(JSON.parse(line));
  });
  const clock = new FakeClock();
  const client = new QmpClient(Duplex.from({ readable: fromQemu, writable: toQemu }), clock);
  const says = (...values: (object | string)[]): void => {
    for (const v of values) fromQemu.write(typeof v === 'string' ? v : `${JSON.stringify(v)}\r\n`);
  };
  return { client, clock, sent, says, raw: () => written, hangUp: () => fromQemu.end() };
}
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('QmpDecoder', () => {
  it('QmpDecoder: distinguishes greeting, answers, errors and events', () => {
    const result = new QmpDecoder().receive(
      Buffer.from(
        `${GREETING}{"return": {}, "id": 1}\r\n{"id": 2, "error": {"class": "GenericError", "desc": "no"}}\n\n{"event": "STOP", "timestamp": {}}\n`,
      ),
    );
    expect(result).toEqual({
      ok: true,
      messages: [
        { kind: 'greeting' },
        { kind: 'return', id: 1, value: {} },
        { kind: 'error', id: 2, description: 'no' },
        { kind: 'event', event: { name: 'STOP', data: {} } },
      ],
    });
  });
  it.each(['nonsense\n', '[]\n', 'null\n', '{}\n', '{"return": {}}\n', '{"id": 1, "error": 3}\n'])(
    'QmpDecoder: refuses %j',
    (line) => {
      expect(new QmpDecoder().receive(Buffer.from(line)).ok).toBe(false);
    },
  );
  it('QmpDecoder: refuses a line beyond its limit', () => {
    const decoder = new QmpDecoder();
    const piece = Buffer.alloc(64 * 1024, 'x');
    let pieces = 0;
    while (decoder.receive(piece).ok) pieces += 1;
    expect(pieces * piece.length).toBeLessThanOrEqual(QMP_LINE_BYTES_MAX);
  });
});

describe('QmpClient', () => {
  it('takeOver: ends a half-written command, and skips the answers of the owner before', async () => {
    const { client, sent, says, raw } = pair();
    const done = client.takeOver();
    await turn();
    expect(raw()[0]).toEqual(Buffer.from([0xff, 0x0a]));
    const [{ execute, id = 0 } = {}] = sent;
    expect([execute, id >= 2 ** 40]).toEqual(['query-status', true]);
    says({ error: { class: 'GenericError', desc: 'JSON parse error' } }, { return: {}, id: 7 });
    says({ return: { status: 'running' }, id });
    await done;
  });
  it('negotiate: waits for the greeting, then leaves negotiation mode', async () => {
    const { client, sent, says } = pair();
    const done = client.negotiate(1_000);
    await turn();
    expect(sent).toEqual([]);
    says(GREETING);
    await turn();
    expect(sent).toEqual([{ execute: 'qmp_capabilities', id: 1 }]);
    says({ return: {}, id: 1 });
    await done;
  });
  it('negotiate: times out if QEMU is silent', async () => {
    const { client, clock } = pair();
    const failure = expect(client.negotiate(1_000)).rejects.toMatchObject({ code: 'vmm_timeout' });
    clock.advance(1_000);
    await failure;
  });
  it('a VMM that floods with events is read within a time budget, and the rest later', async () => {
    const { client, clock, says } = pair();
    let seen = 0;
    client.onEvent(() => {
      seen += 1;
    });
    const chunk = '{"event":"FLOOD"}\n'.repeat(3_500);
    const flood = async (): Promise<number> => {
      let chunks = 0;
      for (let last = -1; chunks < 500 && seen !== last; chunks += 1) {
        last = seen;
        says(chunk);
        await turn();
      }
      return chunks;
    };
    expect(await flood()).toBeLessThan(500);
    const before = seen;
    clock.advance(10_000);
    await turn();
    expect(seen).toBeGreaterThan(before);
  });
  it('execute: matches answers to commands, in any order, with events in between', async () => {
    const { client, says } = pair();
    const one = client.execute('stop');
    const two = client.execute('cont');
    says({ event: 'RESUME' }, { return: 'second', id: 2 }, { event: 'STOP' }, { return: 1, id: 1 });
    expect(await two).toBe('second');
    expect(await one).toBe(1);
  });
  it('execute: a refusal has QEMU’s message and the command', async () => {
    const { client, says } = pair();
    const failure = client.execute('device_add', { driver: 'x' });
    says({ id: 1, error: { class: 'GenericError', desc: "'x' is not a valid device" } });
    await expect(failure).rejects.toMatchObject({
      code: 'vmm_command_failed',
      message: 'QEMU refused "device_add"',
      cause: "'x' is not a valid device",
    });
  });
  it('execute: drops a late answer', async () => {
    const { client, clock, says } = pair();
    const failure = expect(client.execute('stop', {}, 50)).rejects.toMatchObject({ code: 'vmm_timeout' });
    clock.advance(50);
    await failure;
    says({ return: {}, id: 1 });
    const next = client.execute('cont');
    says({ return: {}, id: 2 });
    expect(await next).toEqual({});
  });
  it('execute: at most 32 commands wait at a time', async () => {
    const { client } = pair();
    const waiting = Array.from({ length: 32 }, () => client.execute('stop').catch(String));
    await expect(client.execute('stop')).rejects.toMatchObject({ code: 'vmm_command_failed' });
    client.close();
    await Promise.all(waiting);
  });
  it('closed: garbage and the end of the stream fail pending and later commands', async () => {
    for (const [text, code] of [
      ['garbage\n', 'vmm_command_failed'],
      [null, 'vm_gone'],
    ] as const) {
      const { client, says, hangUp } = pair();
      const waiting = expect(client.execute('stop')).rejects.toMatchObject({ code });
      if (text === null) hangUp();
      else says(text);
      await waiting;
      await expect(client.execute('cont')).rejects.toMatchObject({ code });
      expect((await client.closed).code).toBe(code);
    }
  });
  it('execute: an answered command leaves no handler on `closed`', async () => {
    const { client, says } = pair();
    const reactions = vi.spyOn(client.closed, 'then');
    for (const id of [1, 2, 3]) {
      const answer = client.execute('query-status');
      says({ return: {}, id });
      await answer;
    }
    expect(reactions).not.toHaveBeenCalled();
  });
  it('event: the end of the connection fails pending and later waits', async () => {
    const { client, hangUp } = pair();
    const waiting = expect(client.event(() => true, 1_000)).rejects.toMatchObject({ code: 'vm_gone' });
    hangUp();
    await waiting;
    await expect(client.event(() => true, 1_000)).rejects.toMatchObject({ code: 'vm_gone' });
  });
  it('event: resolves at the first match', async () => {
    const { client, says } = pair();
    const seen = client.event((event) => event.data['device'] === 'vsock', 1_000);
    says(
      { event: 'DEVICE_DELETED', data: { path: '/machine/x' } },
      { event: 'DEVICE_DELETED', data: { device: 'vsock' } },
    );
    expect((await seen).data).toEqual({ device: 'vsock' });
  });
});
