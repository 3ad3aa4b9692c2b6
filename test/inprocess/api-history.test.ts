/** Events and logs of a sandbox over HTTP, with a plain client and with ours. */
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type RemoteControlPlane, remoteControlPlane } from '../../src/api/client/client.ts';
import { systemClock } from '../../src/base/clock.ts';
import type { LogChunk } from '../../src/sandbox/contract/control.ts';
import type { SandboxEventBody, TimedEvent } from '../../src/sandbox/contract/events.ts';
import { type ApiFixture, startApi } from '../support/api-fixture.ts';

const NEAR: SandboxEventBody = { type: 'near_oom', source: 'guest', memoryBytes: 1, limitBytes: 2 };

const PATIENT = { timeout: 20_000 };

let api: ApiFixture;
let client: RemoteControlPlane;
beforeAll(async () => {
  api = await startApi();
  client = remoteControlPlane({ socketPath: api.socketPath }, systemClock);
});
afterAll(async () => {
  await client[Symbol.asyncDispose]();
  await api[Symbol.asyncDispose]();
});

describe('GET /sandboxes/:id/events', () => {
  it('server-sent events with sequence numbers; honors `after` and `follow`', async () => {
    const { id } = await api.control.create({});
    for (let n = 0; n < 3; n += 1) api.control.journal(id).note(NEAR);
    const socket = api.connect();
    socket.write(`GET /v1/sandboxes/${id}/events?after=1&follow=false HTTP/1.1\r\nhost: x\r\n\r\n`);
    const answer = await text(socket);
    expect(answer).toContain('content-type: text/event-stream');
    const sent = [...answer.matchAll(/id: (\d+)\nevent: near_oom\ndata: (.*)\n/g)];
    expect(sent.map(([, seq]) => seq)).toEqual(['2', '3']);
    expect(JSON.parse(sent[0]?.[2] ?? '')).toMatchObject({ ...NEAR, sandbox: id, seq: 2 });
  });

  it('unknown sandboxes and invalid queries: an error status, no stream', async () => {
    expect((await api.ask('GET', '/sandboxes/abcdefghij0123456789/events')).status).toBe(404);
    const { id } = await api.control.create({});
    for (const query of ['after=-1', 'after=x', 'follow=maybe', 'other=1']) {
      const { status } = await api.ask('GET', `/sandboxes/${id}/events?${query}`);
      expect([query, status]).toEqual([query, 400]);
    }
    const body = { onMemoryPressure: 'grow' };
    const { status, text: why } = await api.ask('PATCH', `/sandboxes/${id}`, body);
    expect([status, why]).toEqual([400, expect.stringContaining('a maximum beyond its memory')]);
  });

  it('client: stored events, then new ones, up to the end', async () => {
    const { id } = await client.create({});
    api.control.journal(id).note(NEAR);
    const seen: TimedEvent[] = [];
    for await (const event of client.events(id)) {
      seen.push(event);
      if (event.seq === 1) api.control.journal(id).note({ type: 'dropped', count: 2 });
      if (event.seq === 2) await client.remove(id);
    }
    expect(seen.map(({ type }) => type)).toEqual(['near_oom', 'dropped', 'end']);
  });

  it('client: leaving the loop or aborting closes the stream', async () => {
    const { id } = await client.create({});
    api.control.journal(id).note(NEAR);
    for await (const _event of client.events(id)) break;
    const aborter = new AbortController();
    const reading = (async () => {
      for await (const _event of client.events(id, { signal: aborter.signal })) aborter.abort();
    })();
    await reading;
    await expect.poll(() => api.control.journal(id).listeners).toBe(0);
  });

  it('client: an unknown sandbox is not_found', async () => {
    const events = client.events('abcdefghij0123456789')[Symbol.asyncIterator]();
    await expect(events.next()).rejects.toMatchObject({ code: 'not_found' });
  });
});

describe('GET /sandboxes/:id/logs', () => {
  it('returns the console, also through the client', async () => {
    const { id } = await client.create({});
    api.control.logsOf.set(id, { console: 'panic\u0000\n', vmm: 'x' });
    expect((await api.ask('GET', `/sandboxes/${id}/logs`)).json).toEqual({ console: 'panic\u0000\n', vmm: 'x' });
    expect(await client.logs(id)).toEqual({ console: 'panic\u0000\n', vmm: 'x' });
  });
});

describe('GET /sandboxes/:id/logs/stream', () => {
  it('client: stored output, then new output, up to the end of the sandbox', async () => {
    const { id } = await client.create({});
    const tails = api.control.tails(id);
    tails.console.push(Buffer.from('boot\u0000\n'));
    const seen: LogChunk[] = [];
    for await (const chunk of client.followLogs(id, new AbortController().signal)) {
      seen.push(chunk);
      if (seen.length === 1) tails.vmm.push(Buffer.from('warning\n'));
      if (seen.length === 2) await client.remove(id);
    }
    expect(seen).toEqual([
      { source: 'console', text: 'boot\u0000\n', skippedBytes: 0 },
      { source: 'vmm', text: 'warning\n', skippedBytes: 0 },
    ]);
  });

  it('client: leaving ends the stream; an unknown sandbox is not_found', async () => {
    const { id } = await client.create({});
    api.control.tails(id).console.push(Buffer.from('x'));
    const aborter = new AbortController();
    for await (const _chunk of client.followLogs(id, aborter.signal)) aborter.abort();
    await expect.poll(() => api.control.tails(id).console.readers, PATIENT).toBe(0);
    const none = client.followLogs('abcdefghij0123456789', new AbortController().signal);
    await expect(none[Symbol.asyncIterator]().next()).rejects.toMatchObject({ code: 'not_found' });
  });

  it('client: a daemon that stops is an error, not an end', async () => {
    await using other = await startApi();
    await using far = remoteControlPlane({ socketPath: other.socketPath }, systemClock);
    const { id } = await far.create({});
    other.control.tails(id).console.push(Buffer.from('x'));
    const read = (async () => {
      for await (const _chunk of far.followLogs(id, new AbortController().signal)) {
        void other[Symbol.asyncDispose]();
      }
    })();
    await expect(read).rejects.toMatchObject({ code: 'daemon_lost' });
  });
});
