import { describe, expect, it } from 'vitest';
import { OperationSession } from './session.ts';

const frame = Buffer.from([2, 0, 0, 0, 2, 0x68, 0x69]);

describe('OperationSession', () => {
  it('holds bytes after the reply until the operation begins', () => {
    const session = new OperationSession();
    const head = Buffer.from('OK 7\n{"ok":true,"pid":5}\n');
    expect(session.receive(Buffer.concat([head, frame]))).toMatchObject([
      { type: 'connected' },
      { type: 'reply', reply: { ok: true, fields: { pid: 5 } } },
    ]);
    expect(session.state).toBe('held');
    expect(session.begin('frames')).toEqual([{ type: 'frame', frame: { kind: 2, payload: Buffer.from('hi') } }]);
  });
  it('passes raw bytes after the reply', () => {
    const session = new OperationSession();
    session.receive(Buffer.from('OK 7\n{"ok":true}\nHTTP'));
    expect(session.begin('raw')).toEqual([{ type: 'bytes', bytes: Buffer.from('HTTP') }]);
    expect(session.receive(Buffer.from('/1.1'))).toEqual([{ type: 'bytes', bytes: Buffer.from('/1.1') }]);
  });
  it('converts a refusal to a typed error, and an unknown code to guest_failed', () => {
    const refuse = (code: string): unknown => {
      const session = new OperationSession();
      session.receive(Buffer.from('OK 7\n'));
      return session.receive(Buffer.from(`{"ok":false,"code":"${code}","message":"m\\u0007"}\n`));
    };
    expect(refuse('disk_full')).toMatchObject([{ reply: { ok: false, error: { code: 'disk_full', message: 'm ' } } }]);
    expect(refuse('cancelled')).toMatchObject([{ reply: { error: { code: 'guest_failed' } } }]);
  });
  it.each([
    ['another handshake than OK', 'NO\n'],
    ['an OK without a number', 'OK x\n'],
    ['a long handshake', `OK ${'1'.repeat(80)}`],
    ['a reply that is not JSON', 'OK 1\nyes\n'],
    ['a reply without ok', 'OK 1\n{"pid":1}\n'],
    ['a refusal without a code', 'OK 1\n{"ok":false}\n'],
    ['an endless reply', `OK 1\n${'x'.repeat(1024 * 1024 + 1)}`],
  ])('fails on %s', (_name, text) => {
    const session = new OperationSession();
    expect(session.receive(Buffer.from(text)).at(-1)).toMatchObject({ type: 'broken' });
    expect(session.receive(Buffer.from('OK 1\n'))).toEqual([]);
  });
});
