import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../base/clock.ts';
import type { GuestChange } from '../../machine/guest/guest.ts';
import type { Vm } from '../../machine/vmm/driver.ts';
import {
  fitMemory,
  grownMib,
  guestLimits,
  type MemorySize,
  RESIZE_LIMITS,
  ramMib,
  resizeMemory,
  vmMemory,
} from './size.ts';

describe('ramMib, vmMemory', () => {
  it('without a maximum: RAM equals the memory, and there is no balloon', () => {
    expect(ramMib({ memoryMib: 256 })).toBe(256);
    expect(vmMemory({ memoryMib: 256 })).toEqual({ memoryMib: 256 });
  });
  it('with a maximum: RAM is the maximum, with a balloon, even an empty one', () => {
    const vm = { memoryMib: 1024, balloonMib: 768 };
    expect(vmMemory({ memoryMib: 256, memoryMaxMib: 1024 })).toEqual(vm);
    expect(vmMemory({ memoryMib: 1024, memoryMaxMib: 1024 })).toEqual({ ...vm, balloonMib: 0 });
  });
});

describe('grownMib', () => {
  it('reaches any maximum in a few steps, and stops there', () => {
    const steps = (size: MemorySize): number[] => {
      const next = grownMib(size);
      return next === null ? [] : [next, ...steps({ ...size, memoryMib: next })];
    };
    expect(steps({ memoryMib: 256, memoryMaxMib: 1024 })).toEqual([384, 576, 864, 1024]);
    expect(steps({ memoryMib: 128, memoryMaxMib: 130 })).toEqual([130]);
    expect(steps({ memoryMib: 128, memoryMaxMib: 2048 }).length).toBeLessThan(10);
    expect(grownMib({ memoryMib: 256 })).toBeNull();
    expect(grownMib({ memoryMib: 256, memoryMaxMib: 256 })).toBeNull();
  });
});

const SIZE = { memoryMib: 256, memoryMaxMib: 1024 } as const;

/** @param moves returns the guest's next size from its current and its target size */
function world(moves: (nowMib: number, toMib: number) => number = (_now, to) => to) {
  const clock = new FakeClock();
  const asked: number[] = [];
  const changes: number[] = [];
  let nowMib: number = SIZE.memoryMib;
  let toMib = nowMib;
  const told = { limits: 0, holdMs: undefined as number | undefined };
  const answer = { isHeld: false };
  const vm = {
    balloon: {
      setMemory: async (mib: number) => {
        asked.push(mib);
        toMib = mib;
      },
      memoryMib: async () => {
        nowMib = moves(nowMib, toMib);
        return nowMib;
      },
    },
  } as unknown as Vm;
  const guest = {
    update: async ({ limits }: GuestChange, signal: AbortSignal) => {
      told.limits += 1;
      told.holdMs = limits?.holdMs;
      if (!answer.isHeld) return;
      await new Promise((_resolve, reject) => {
        signal.addEventListener('abort', () => reject(signal.reason), { once: true });
      });
    },
    stats: async () => ({ memoryAvailableBytes: 60 * 2 ** 20 }) as never,
  };
  const parts = { clock, vm, guest, signal: new AbortController().signal };
  const pass = async <T>(work: Promise<T>): Promise<T> => {
    let isOver = false;
    const over = work.finally(() => {
      isOver = true;
    });
    over.catch(() => undefined);
    while (!isOver) {
      await new Promise((resolve) => setImmediate(resolve));
      clock.advance(RESIZE_LIMITS.pollMs);
    }
    return await over;
  };
  const resize = (mib: number, size: MemorySize = SIZE): Promise<void> =>
    pass(resizeMemory(parts, size, mib, (to) => void changes.push(to)));
  return { clock, asked, changes, told, answer, parts, pass, resize };
}

describe('resizeMemory', () => {
  it('grow: counts at once; program limits follow once the guest has the memory', async () => {
    const { asked, changes, told, resize } = world((now, to) => Math.min(now + 10, to));
    await resize(384);
    expect([asked, changes.at(-1), told.limits]).toEqual([[384], 384, 1]);
  });

  it('grow: a guest that takes nothing fails the change, but may still take the memory later', async () => {
    const { clock, changes, resize } = world((now) => now);
    await expect(resize(384)).rejects.toMatchObject({ code: 'memory_unavailable' });
    expect(changes).toEqual([384]);
    expect(clock.now()).toBeLessThan(2 * RESIZE_LIMITS.stillMsMax);
  });

  it('grow: a guest that never arrives fails the change after `allMsMax`', async () => {
    const { clock, resize } = world((now, to) => now + (to - now) / 1000);
    await expect(resize(1024)).rejects.toMatchObject({ code: 'memory_unavailable' });
    expect(clock.now()).toBeLessThan(2 * RESIZE_LIMITS.allMsMax);
  });

  it('grow: programs are held only while the guest can still grow', async () => {
    const { told, resize } = world();
    await resize(1023);
    expect(told.holdMs).toBe(RESIZE_LIMITS.holdMs);
    await resize(1024);
    expect(told.holdMs).toBeUndefined();
    await resize(768);
    expect(told.holdMs).toBe(RESIZE_LIMITS.holdMs);
    // The guest has its maximum, so nothing would grow it.
    expect(guestLimits({ memoryMib: 256 })).toEqual({});
  });

  it('shrink: refused below the usage of the programs', async () => {
    const { asked, resize } = world();
    await expect(resize(200)).rejects.toMatchObject({
      code: 'memory_unavailable',
      remedy: expect.stringContaining('228 MiB'),
    });
    expect(asked).toEqual([]);
  });

  it('shrink: counts once the guest has returned the memory', async () => {
    const { changes, told, resize } = world();
    await resize(228);
    expect([changes, told.limits]).toEqual([[228], 1]);
  });

  it('shrink: a guest that returns nothing keeps its size', async () => {
    const { asked, changes, resize } = world((now, to) => Math.max(now, to));
    await expect(resize(228)).rejects.toMatchObject({ code: 'memory_unavailable' });
    expect([asked, changes]).toEqual([[228, 256], []]);
  });

  it.each([384, 228])('to %s: an agent that does not answer fails the change', async (toMib) => {
    const { clock, asked, changes, answer, resize } = world();
    answer.isHeld = true;
    await expect(resize(toMib)).rejects.toThrow('longer than');
    // The reported size is the current one.
    expect([asked, changes]).toEqual([[toMib], [toMib]]);
    expect(clock.now()).toBeLessThan(2 * RESIZE_LIMITS.answerMsMax);
  });

  it('a size that the VMM refuses does not count', async () => {
    const { parts, changes, resize } = world();
    const setMemory = async (): Promise<never> => {
      throw new Error('no');
    };
    Object.assign(parts.vm.balloon ?? {}, { setMemory });
    await expect(resize(384)).rejects.toThrow('no');
    expect(changes).toEqual([]);
  });

  it.each([127, 1025, 300.5, Number.NaN])('refuses %s', async (mib) => {
    const { asked, resize } = world();
    await expect(resize(mib)).rejects.toMatchObject({ code: 'spec_invalid' });
    expect(asked).toEqual([]);
  });

  it('without a maximum: refused, with a remedy', async () => {
    const { resize } = world();
    await expect(resize(512, { memoryMib: 256 })).rejects.toMatchObject({
      code: 'spec_invalid',
      remedy: expect.stringContaining('--memory-max'),
    });
  });
});

describe('fitMemory', () => {
  it('true if the guest reaches its size in time, else false', async () => {
    const well = world();
    expect(await well.pass(fitMemory(well.parts, SIZE))).toBe(true);
    expect(well.told.limits).toBe(1);
    const still = world(() => 1024);
    expect(await still.pass(fitMemory(still.parts, SIZE))).toBe(false);
    const none = { ...well.parts, vm: {} as Vm };
    expect(await fitMemory(none, { memoryMib: 256 })).toBe(true);
  });
});
