/**
 * How much memory a guest has, where that can change: its VM has the maximum, and a balloon in the guest holds
 * the difference back.
 *
 *     0 ──── memoryMib (the guest has) ────┬──── balloon ────┬ memoryMaxMib (RAM of the VM)
 *                                          └─► grow    shrink ◄─┘
 *
 * A guest that is hostile can take all of the maximum at any time, and say what it likes about it: the VMM's own limits
 * count the maximum. What is waited for is bounded.
 */
import type { Clock } from '../../base/clock.ts';
import { timeLimit, wait } from '../../base/time-limit.ts';
import { MIB } from '../../base/units.ts';
import type { Guest, GuestLimits } from '../../guest/guest.ts';
import type { Balloon, Vm, VmSpec } from '../../vmm/driver.ts';
import { SandboxError } from '../errors.ts';
import { isInRange, RANGES } from '../limits.ts';
import type { SandboxSpec } from '../spec.ts';

export type MemorySize = Pick<SandboxSpec, 'memoryMib' | 'memoryMaxMib'>;

export const RESIZE_LIMITS = {
  /** A guest that is well moves 100 MiB in 50 ms (software emulation); one that stands still is not waited for. */
  stillMsMax: 5000,
  allMsMax: 60_000,
  pollMs: 10,
  /** Its programs stand still until a step that was asked for is done: it is ahead of a kill on a busy host too. */
  holdMs: 5000,
  /** Of its agent, to set its limits: meanwhile nobody can pause or save it. */
  answerMsMax: 10_000,
  /** Left free in one that shrinks, beside what its programs have now. */
  freeMib: 32,
} as const;

/** RAM of its VM, MiB. */
export function ramMib({ memoryMib, memoryMaxMib }: MemorySize): number {
  return memoryMaxMib ?? memoryMib;
}

/** As a VMM is asked for it. */
export function vmMemory(size: MemorySize): Pick<VmSpec, 'memoryMib' | 'balloonMib'> {
  const memoryMib = ramMib(size);
  if (size.memoryMaxMib === undefined) return { memoryMib };
  return { memoryMib, balloonMib: memoryMib - size.memoryMib };
}

/** As it is after the step that is taken when memory runs short, MiB; null: it has all that it may have. */
export function grownMib({ memoryMib, memoryMaxMib = 0 }: MemorySize): number | null {
  if (memoryMib >= memoryMaxMib) return null;
  return Math.min(memoryMaxMib, memoryMib + Math.max(STEP_MIB_MIN, Math.ceil(memoryMib / 2)));
}

/** Of its programs; the agent's own defaults beside, which are parts of what it has. */
export function guestLimits(size: MemorySize): GuestLimits {
  return grownMib(size) === null ? {} : { holdMs: RESIZE_LIMITS.holdMs };
}

/** A program that takes memory as fast as it can is not to be ahead of many small steps. */
const STEP_MIB_MIN = 64;

/** What takes part in a change. */
export interface ResizeParts {
  readonly clock: Clock;
  readonly vm: Vm | undefined;
  readonly guest: Pick<Guest, 'update' | 'stats'>;
  readonly signal: AbortSignal;
}

/**
 * After a start: a guest that boots gives up what its balloon is to hold, a clone may have been given more since
 * its snapshot was taken. @returns false: it has not done so in time. @throws VmmError, GuestError
 */
export async function fitMemory(parts: ResizeParts, size: MemorySize): Promise<boolean> {
  const balloon = parts.vm?.balloon;
  if (balloon === undefined) return true;
  const isThere = await moveTo(parts, balloon, size.memoryMib);
  await followMemory(parts, size);
  return isThere;
}

/**
 * @param changed is told what it has from then on
 * @throws SandboxError `spec_invalid`: not within what is possible, nothing has changed; `memory_unavailable`: its guest
 *   has not done it, and may still take what it was given; VmmError, GuestError
 */
export async function resizeMemory(
  parts: ResizeParts,
  size: MemorySize,
  toMib: number,
  changed: (memoryMib: number) => void,
): Promise<void> {
  checkResize(size, toMib);
  const balloon = parts.vm?.balloon;
  if (balloon === undefined) throw fixedSize();
  const { memoryMib: fromMib } = size;
  const isMore = toMib >= fromMib;
  if (!isMore) await requireFree(parts, fromMib, toMib);
  // Also if it takes its time: once asked for, it is the guest's.
  const isThere = await moveTo(parts, balloon, toMib, () => isMore && changed(toMib));
  const hasMib = isMore || isThere ? toMib : fromMib;
  if (!isMore) {
    if (isThere) changed(toMib);
    // What it has not given back, it keeps.
    else await moveTo(parts, balloon, fromMib);
  }
  await followMemory(parts, { ...size, memoryMib: hasMib });
  if (isThere) return;
  const what = isMore ? 'taken the memory that it was given' : 'given its memory back';
  throw new SandboxError('memory_unavailable', `its guest has not ${what} in time`);
}

/** @throws SandboxError `spec_invalid` */
export function checkResize({ memoryMaxMib }: MemorySize, toMib: number): void {
  if (memoryMaxMib === undefined) throw fixedSize();
  const { min } = RANGES.memoryMib;
  if (isInRange(toMib, { min, max: memoryMaxMib })) return;
  const range = `${min} to ${memoryMaxMib}, its maximum`;
  throw new SandboxError('spec_invalid', `memoryMib: ${toMib} is not a whole number from ${range}`);
}

function fixedSize(): SandboxError {
  return new SandboxError('spec_invalid', 'memoryMib: the memory of this sandbox stays as it is', {
    remedy: 'make one whose memory can change: --memory-max, memoryMaxMib',
  });
}

/** So that no program is killed for it. What it says is believed: if it lies, it hurts itself. */
async function requireFree({ guest }: ResizeParts, fromMib: number, toMib: number): Promise<void> {
  const { memoryAvailableBytes } = await guest.stats();
  const leastMib = Math.ceil(fromMib - memoryAvailableBytes / MIB) + RESIZE_LIMITS.freeMib;
  if (toMib >= leastMib) return;
  throw new SandboxError('memory_unavailable', `its programs leave less free than that`, {
    remedy: `leave it at least ${Math.min(leastMib, fromMib)} MiB`,
  });
}

/** @param asked called when it is under way. @returns false: its guest has stopped before it was there */
async function moveTo(
  { clock, signal }: ResizeParts,
  balloon: Balloon,
  toMib: number,
  asked: () => unknown = () => undefined,
): Promise<boolean> {
  const began = clock.now();
  let movedAt = began;
  let nearestMib = Number.POSITIVE_INFINITY;
  await balloon.setMemory(toMib);
  asked();
  for (;;) {
    const offMib = Math.abs((await balloon.memoryMib()) - toMib);
    const now = clock.now();
    if (offMib < nearestMib) movedAt = now;
    nearestMib = Math.min(nearestMib, offMib);
    const { stillMsMax, allMsMax, pollMs } = RESIZE_LIMITS;
    if (offMib < 1 || now - movedAt >= stillMsMax || now - began >= allMsMax) break;
    await wait(clock, pollMs, signal);
  }
  return nearestMib < 1;
}

/** What its programs may have is a part of what it has. @throws GuestError; or it does not answer */
async function followMemory({ clock, guest, signal }: ResizeParts, size: MemorySize) {
  using limit = timeLimit(clock, RESIZE_LIMITS.answerMsMax, signal);
  await guest.update({ limits: guestLimits(size) }, limit.signal);
}
