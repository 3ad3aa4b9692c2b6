import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../base/clock.ts';
import type { Vm } from '../../machine/vmm/driver.ts';
import { ByteTail } from '../../machine/vmm/tail.ts';
import type { LogChunk, SandboxInfo } from '../contract/control.ts';
import { FOLLOW_LIMITS, followLogs } from './logs.ts';

function newVm(): Vm {
  const logs = { console: new ByteTail(64 * 1024), vmm: new ByteTail(1024) };
  return { logs } as unknown as Vm;
}

function push(vm: Vm | undefined, source: LogChunk['source'], text: string | Buffer): void {
  const tail = vm?.logs[source];
  if (tail instanceof ByteTail) tail.push(Buffer.from(text));
}

class World {
  readonly clock = new FakeClock();
  readonly aborter = new AbortController();
  readonly chunks: LogChunk[] = [];
  readonly listeners = new Set<(info: SandboxInfo) => void>();
  #status: SandboxInfo['status'] = 'running';
  readonly sandbox: { readonly id: string; vm: Vm | undefined; info(): SandboxInfo } = {
    id: 'a',
    vm: newVm(),
    info: () => ({ id: 'a', status: this.#status }) as SandboxInfo,
  };
  readonly over: Promise<void>;

  constructor() {
    const control = {
      onChange: (listener: (info: SandboxInfo) => void) => {
        this.listeners.add(listener);
        return () => this.listeners.delete(listener);
      },
    };
    this.over = (async () => {
      const read = followLogs(this.sandbox, control, this.clock, this.aborter.signal);
      for await (const chunk of read) this.chunks.push(chunk);
    })();
  }

  print(text: string | Buffer, source: LogChunk['source'] = 'console'): void {
    push(this.sandbox.vm, source, text);
  }

  /** Changes the status, and possibly the VM. */
  become(status: SandboxInfo['status'], vm: Vm | undefined): void {
    this.#status = status;
    this.sandbox.vm = vm;
    for (const listener of this.listeners) listener(this.sandbox.info());
  }

  /** Resolves once the reader waits for news. */
  async settle(): Promise<void> {
    for (let n = 0; n < 50; n += 1) {
      await new Promise(setImmediate);
      this.clock.advance(FOLLOW_LIMITS.restMs);
    }
  }

  get text(): string {
    return this.chunks.map(({ text }) => text).join('');
  }
}

describe('followLogs', () => {
  it('both logs: the kept text, then new text, until the end', async () => {
    const world = new World();
    world.print('boot\n');
    await world.settle();
    world.print('more\n');
    world.print('warning\n', 'vmm');
    await world.settle();
    const last = world.sandbox.vm;
    push(last, 'console', 'last words');
    world.become('ended', undefined);
    await world.settle();
    await world.over;
    expect(world.chunks.map(({ source, text }) => [source, text])).toEqual([
      ['console', 'boot\n'],
      ['console', 'more\n'],
      ['vmm', 'warning\n'],
      ['console', 'last words'],
    ]);
    expect(world.listeners.size).toBe(0);
  });

  it('next VM: its text follows after all text of the previous VM', async () => {
    const world = new World();
    world.print('one');
    await world.settle();
    world.print(' more');
    world.become('paused', undefined);
    const next = newVm();
    push(next, 'console', 'two');
    world.become('running', next);
    await world.settle();
    expect(world.text).toBe('one moretwo');
    world.aborter.abort();
    await world.over;
  });

  it('flood: lost bytes are counted, and the tail bounds memory', async () => {
    const world = new World();
    await world.settle();
    world.print('x'.repeat(1_000_000));
    await world.settle();
    const [first] = world.chunks;
    expect(first?.skippedBytes).toBe(1_000_000 - 64 * 1024);
    expect(world.text).toBe('x'.repeat(64 * 1024));
    const sizes = world.chunks.map(({ text }) => text.length);
    expect(Math.max(...sizes)).toBeLessThanOrEqual(FOLLOW_LIMITS.chunkBytesMax);
    world.aborter.abort();
    await world.over;
  });

  it('pauses between chunks', async () => {
    const world = new World();
    world.print('x'.repeat(3 * FOLLOW_LIMITS.chunkBytesMax));
    for (let n = 0; n < 50; n += 1) await new Promise(setImmediate);
    expect(world.chunks).toHaveLength(1);
    world.aborter.abort();
    await world.over;
  });

  it('a character split over two chunks is decoded as one', async () => {
    const world = new World();
    const bytes = Buffer.from('é');
    world.print(bytes.subarray(0, 1));
    await world.settle();
    world.print(bytes.subarray(1));
    await world.settle();
    expect(world.text).toBe('é');
    world.aborter.abort();
    await world.over;
  });
});
