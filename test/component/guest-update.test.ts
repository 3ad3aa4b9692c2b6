/** `update`: environment, limits and clock of a running sandbox, all or none. */
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { outcome, type RunningAgent, startAgent } from '../support/guest-agent.ts';

describe('update', () => {
  let agent: RunningAgent;
  beforeAll(async () => {
    agent = await startAgent({ identity: { env: { KEPT: 'no', WHO: 'hello' } } });
  });
  afterAll(async () => {
    expect(agent.console()).toBe('');
    await agent[Symbol.asyncDispose]();
  });
  const say = async (script: string): Promise<string> =>
    (await outcome(await agent.guest.exec({ argv: ['sh', '-c', script] }))).stdout;
  const raw = async (fields: object): Promise<unknown> => {
    const socket = connect(agent.channelPath);
    socket.write(`CONNECT 5000\n${JSON.stringify({ v: 1, op: 'update', ...fields })}\n`);
    return JSON.parse((await text(socket)).split('\n')[1] ?? '');
  };

  it('no fields: answered, and nothing changes', async () => {
    await agent.guest.update({});
    expect(await say('echo $WHO')).toBe('hello\n');
  });

  it('environment: replaced on a connection that was opened before', async () => {
    agent.guest.expectUpdate();
    await say('true');
    await agent.guest.update({ env: { KEPT: 'no', WHO: 'hello', NEW: 'yes' } });
    expect(await say('echo $NEW')).toBe('yes\n');
  });

  it('environment: replaced for later programs; the endpoint stays; running programs keep theirs', async () => {
    const early = await agent.guest.exec({ argv: ['sh', '-c', 'read a; echo $WHO'] });
    await agent.guest.update({ env: { WHO: 'updated' } });
    expect(await say('echo $WHO $KEPT $OPENAI_API_KEY')).toBe('updated neurovisor\n');
    const code = 'import os; print(os.environ["WHO"])';
    const script = await outcome(await agent.guest.python({ script: { code } }));
    expect(script.stdout).toBe('updated\n');
    early.stdin.end('go\n');
    expect((await outcome(early)).stdout).toBe('hello\n');
  });

  it('environment: may be larger than a request line', async () => {
    const long = 'x'.repeat(100_000);
    await agent.guest.update({ env: { LONG: long, WHO: 'large' } });
    expect(await say('echo $WHO $LONG | wc -c')).toBe('100007\n');
  });

  it('limits: replace all previous ones', async () => {
    await agent.guest.update({ limits: { outputBytesMax: 3 } });
    expect(await say('echo 12345')).toBe('123');
    await agent.guest.update({ limits: {} });
    expect(await say('echo 12345')).toBe('12345\n');
  });

  it('clock: accepted, and unchanged outside a VM', async () => {
    const before = Date.now();
    await agent.guest.update({ wallMs: before + 3_600_000 });
    expect(Date.now() - before).toBeLessThan(3_000_000);
  });

  it.each<[string, object]>([
    ['a clock that is not a number', { wallNs: '12x' }],
    ['a negative clock', { wallNs: '-5' }],
    ['a clock that is not text', { wallNs: 5 }],
    ['a clock beyond the kernel’s range', { wallNs: '9'.repeat(20) }],
    ['an environment that is a list', { env: ['A'] }],
    ['a value that is not text', { env: { A: 1 } }],
    ['an invalid variable name', { env: { 'A=B': 'x' } }],
    ['a NUL', { env: { A: 'x\u0000' } }],
    ['limits that are a list', { limits: [] }],
    ['a limit of 0', { limits: { pidsMax: 0 } }],
    ['half a process', { limits: { pidsMax: 1.5 } }],
    ['a huge limit', { limits: { memoryMaxBytes: 1e300 } }],
  ])('bad input: %s is invalid_request and nothing changes', async (_name, bad) => {
    await agent.guest.update({ env: { WHO: 'before' }, limits: { outputBytesMax: 8 } });
    const good = { env: { WHO: 'half' }, limits: { outputBytesMax: 1 }, wallNs: '1' };
    expect(await raw({ ...good, ...bad })).toMatchObject({ ok: false, code: 'invalid_request' });
    expect(await say('echo $WHO and more')).toBe('before a');
    await agent.guest.update({ limits: {} });
  });
});
