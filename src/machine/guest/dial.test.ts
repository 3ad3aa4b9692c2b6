import { once } from 'node:events';
import { type Duplex, duplexPair } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { readsOnly } from './dial.ts';

/** @returns what the agent gets, and what its client gets, of a connection whose first line is `line` */
async function ask(line: string): Promise<{ readonly agent: string; readonly client: string }> {
  const [guest, agent] = duplexPair();
  const got = { agent: '', client: '' };
  agent.on('data', (bytes: Buffer) => {
    got.agent += bytes.toString();
    agent.end('content');
  });
  agent.on('error', () => undefined);
  agent.write('OK 1024\n');
  const client = readsOnly(guest);
  client.on('data', (bytes: Buffer) => {
    got.client += bytes.toString();
  });
  const ended = once(client, 'end');
  client.write(line);
  await ended;
  client.end();
  return got;
}

describe('readsOnly', () => {
  it.each(['read', 'stat', 'list'])('%s: passes, with its answer', async (op) => {
    const line = `${JSON.stringify({ v: 1, op, path: '/etc' })}\nrest`;
    expect(await ask(line)).toEqual({ agent: line, client: 'OK 1024\ncontent' });
  });

  it.each([
    JSON.stringify({ v: 1, op: 'write', path: '/etc' }),
    JSON.stringify({ v: 1, op: 'exec', argv: ['true'] }),
    JSON.stringify({ v: 1, op: 'read', moreBytes: 20 }),
    '{"op":"read","op":"exec"}',
    'not JSON',
    'null',
    '"read"',
    'x'.repeat(100_000),
  ])('%s: is refused, and the agent gets nothing of it', async (request) => {
    const { agent, client } = await ask(`${request}\n`);
    expect(agent).toBe('');
    const [ok, refusal = ''] = client.split('\n');
    expect(ok).toBe('OK 1024');
    expect(JSON.parse(refusal)).toMatchObject({ ok: false, code: 'permission_denied' });
  });

  it('a connection that breaks breaks the other side', async () => {
    const closed = (stream: Duplex): Promise<void> =>
      new Promise((resolve) => void stream.once('close', () => resolve()));
    const [first] = duplexPair();
    const client = closed(readsOnly(first));
    first.destroy();
    await client;
    const [second] = duplexPair();
    const guest = closed(second);
    readsOnly(second).destroy();
    await guest;
  });
});
