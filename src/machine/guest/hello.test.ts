import { describe, expect, it } from 'vitest';
import { HelloSession, type LinkEvent } from './hello.ts';
import type { GuestIdentity } from './identity.ts';

const identity: GuestIdentity = {
  sandboxId: 'abcdefghij0123456789',
  hostname: 'nv-abc',
  env: { A: 'b' },
  limits: { pidsMax: 5 },
  warm: ['json'],
};
const HELLO = {
  type: 'hello',
  protocol: 1,
  agent: '0.1.0',
  python: '3.11.2',
  timings: { kernelToInitMs: 700.5, initToAgentMs: 300, agentToHelloMs: 40 },
  overlay: 'disk',
  cgroup: true,
};
const line = (value: unknown): Buffer => Buffer.from(`${JSON.stringify(value)}\n`);
const session = (): HelloSession =>
  new HelloSession(identity, () => ({ wallNs: 12345678901234567890n, entropy: Buffer.alloc(64, 7) }));

describe('HelloSession', () => {
  it('answers a hello with the identity, the clock and entropy', () => {
    const hello = session();
    expect(hello.receive(line({ ...HELLO, later: 'field' }))).toMatchObject([{ type: 'hello' }]);
    const welcome = JSON.parse(hello.takeOutput());
    expect(welcome).toMatchObject({ ...identity, type: 'welcome', wallNs: '12345678901234567890' });
    expect(Buffer.from(welcome.entropy, 'base64')).toEqual(Buffer.alloc(64, 7));
    expect(hello.takeOutput()).toBe('');
  });
  it('sends the guest the defaults of its image', () => {
    const environment = { user: 'app:1000', workdir: '/srv' };
    const hello = new HelloSession({ ...identity, environment }, () => ({ wallNs: 1n, entropy: Buffer.alloc(64) }));
    hello.receive(line(HELLO));
    expect(JSON.parse(hello.takeOutput())).toMatchObject({ environment });
  });
  it('is linked only after the confirmation, and then returns events', () => {
    const hello = session();
    hello.receive(line(HELLO));
    expect(hello.state).toBe('waiting-confirm');
    const events = hello.receive(
      Buffer.concat([line({ type: 'ready', problems: ['a\u001b[31m problem'] }), line({ type: 'dropped', count: 3 })]),
    );
    expect(hello.state).toBe('linked');
    expect(events).toEqual([
      { type: 'ready', problems: ['a [31m problem'] },
      { type: 'event', event: { type: 'dropped', count: 3 } },
    ]);
  });
  it('refuses another protocol version and names both', () => {
    const hello = session();
    expect(hello.receive(line({ type: 'hello', protocol: 2, new: true }))).toMatchObject([
      { type: 'refused', by: 'host', message: expect.stringContaining('protocol 1') },
    ]);
    expect(JSON.parse(hello.takeOutput())).toMatchObject({ type: 'refused', code: 'protocol_version' });
    expect(hello.receive(line(HELLO))).toEqual([]);
  });
  it('reports a refusal by the guest', () => {
    const hello = session();
    hello.receive(line(HELLO));
    expect(hello.receive(line({ type: 'refused', code: 'identity_failed', message: 'no clock' }))).toEqual([
      { type: 'refused', by: 'guest', message: 'no clock' },
    ]);
    expect(hello.state).toBe('over');
  });
  it.each<[string, Buffer]>([
    ['text that is not JSON', Buffer.from('hello\n')],
    ['another message than a hello', line({ type: 'ready', problems: [] })],
    ['a hello that lacks fields', line({ type: 'hello', protocol: 1 })],
    ['bad UTF-8', Buffer.from([0x22, 0xff, 0x22, 0x0a])],
    ['a line without an end', Buffer.alloc(70_000, 0x61)],
  ])('fails on %s', (_name, bytes) => {
    const hello = session();
    const events: LinkEvent[] = hello.receive(bytes);
    expect(events).toMatchObject([{ type: 'broken' }]);
    expect(hello.state).toBe('over');
    expect(hello.takeOutput()).toBe('');
  });
});
