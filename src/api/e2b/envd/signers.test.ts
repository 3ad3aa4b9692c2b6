import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../../base/clock.ts';
import type { SandboxInfo } from '../../../sandbox/contract/control.ts';
import { BusyError } from '../../../sandbox/contract/errors.ts';
import { E2B_LIMITS } from '../limits.ts';
import { accessTokens, fileSignature } from '../tokens.ts';
import { type Signed, Signers } from './signers.ts';

const real = accessTokens(Buffer.alloc(32, 1));
const FILE = { path: 'a', operation: 'read', user: '', expiration: null } as const;
const signedBy = (id: string): Signed => ({ ...FILE, signature: fileSignature(FILE, real.envd(id)) });
const WRONG: Signed = { ...FILE, signature: `v1_${'x'.repeat(43)}` };

function world(ids: readonly string[]) {
  const listeners = new Set<(info: SandboxInfo) => void>();
  const counts = { derived: 0, lists: 0, cpuMs: 0 };
  const clock = new FakeClock();
  const tell = (id: string, status: SandboxInfo['status']): void => {
    for (const listener of listeners) listener({ id, status } as SandboxInfo);
  };
  let whileListing = (): void => undefined;
  const control = {
    list: async () => {
      counts.lists += 1;
      whileListing();
      return ids.map((id) => ({ id })) as unknown as readonly SandboxInfo[];
    },
    onChange: (listener: (info: SandboxInfo) => void) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
  const tokens = {
    ...real,
    envd: (id: string) => {
      counts.derived += 1;
      return real.envd(id);
    },
  };
  const open = () => Signers.open({ control, tokens, clock }, () => counts.cpuMs);
  return { tell, counts, clock, open, listeners, during: (run: () => void) => (whileListing = run) };
}

describe('Signers', () => {
  it('finds the signing sandbox, lists the sandboxes once, and derives each token once', async () => {
    const { counts, open, tell, listeners } = world(['a', 'b', 'c']);
    const signers = await open();
    for (let n = 0; n < 10; n += 1) {
      expect([signers.find(signedBy('b')), signers.find(WRONG)]).toEqual(['b', null]);
    }
    tell('d', 'running');
    tell('d', 'paused');
    expect(signers.find(signedBy('d'))).toBe('d');
    expect(signers.find({ ...signedBy('b'), path: 'other' })).toBeNull();
    expect(counts).toMatchObject({ lists: 1, derived: 4 });
    signers[Symbol.dispose]();
    expect(listeners.size).toBe(0);
  });

  it('rejects signatures of an ended sandbox, even if it was found before or ended meanwhile', async () => {
    const { open, tell, during } = world(['a', 'b']);
    during(() => tell('a', 'ended'));
    const signers = await open();
    expect([signers.find(signedBy('a')), signers.find(signedBy('b'))]).toEqual([null, 'b']);
    tell('b', 'ended');
    expect(signers.find(signedBy('b'))).toBeNull();
  });

  it('wrong signatures take a bounded time; known ones still pass', async () => {
    const { counts, clock, open } = world(['a']);
    const signers = await open();
    expect(signers.find(signedBy('a'))).toBe('a');
    const { size, refillPerSecond } = E2B_LIMITS.signersMs;
    const searching = {
      get signature(): string {
        counts.cpuMs += size;
        return WRONG.signature;
      },
    };
    const costly = Object.defineProperties({ ...WRONG }, Object.getOwnPropertyDescriptors(searching));
    expect(signers.find(costly)).toBeNull();
    expect(() => signers.find(WRONG)).toThrow(BusyError);
    expect(signers.find(signedBy('a'))).toBe('a');
    clock.advance((10 * size * 1000) / refillPerSecond);
    expect(signers.find(WRONG)).toBeNull();
  });
});
