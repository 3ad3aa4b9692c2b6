/**
 * The memory size of a guest: its VM has the maximum as RAM, and a balloon in the guest holds back the difference.
 *
 *     0 ──── memoryMib (the guest has) ────┬──── balloon ────┬ memoryMaxMib (RAM of the VM)
 *                                          └─► grow    shrink ◄─┘
 *
 * A hostile guest can take the whole maximum at any time and report anything about it: the VMM's limits count the
 * maximum, and all waits are bounded.
 */
import type { Clock } from '../../base/clock.ts';
import { timeLimit, wait } from '../../base/time-limit.ts';
import { MIB } from '../../base/units.ts';
import type { Guest, GuestLimits } from '../../machine/guest/guest.ts';
import type { Balloon, Vm, VmmCapabilities, VmSpec } from '../../machine/vmm/driver.ts';
import { SandboxError } from '../contract/errors.ts';
import { isInRange, RANGES } from '../contract/limits.ts';
import type { SandboxSpec } from '../contract/spec.ts';

export type MemorySize = Pick<SandboxSpec, 'memoryMib' | 'memoryMaxMib'>;

export const RESIZE_LIMITS = {
  /** Maximum time without progress. A healthy guest moves 100 MiB in 50 ms (software emulation). */
  stillMsMax: 5000,
  allMsMax: 60_000,
  pollMs: 10,
  /** Programs are held until a requested step is done, so that growth comes before an OOM kill on a busy host too. */
  holdMs: 5000,
  /** Maximum wait for the agent's answer to new limits; meanwhile the sandbox can't be paused or saved. */
  answerMsMax: 10_000,
  /** Kept free in a guest that shrinks, beyond the usage of its programs. */
  freeMib: 32,
} as const;

/** RAM of the VM in MiB. */
export function ramMib({ memoryMib, memoryMaxMib }: MemorySize): number {
  return memoryMaxMib ?? memoryMib;
}

export function vmMemory(size: MemorySize): Pick<VmSpec, 'memoryMib' | 'balloonMib'> {
  const memoryMib = ramMib(size);
  if (size.memoryMaxMib === undefined) return { memoryMib };
  return { memoryMib, balloonMib: memoryMib - size.memoryMib };
}

/** Whether a clone of this size may map its source's RAM and share pages with others. */
export function mayMapRam({ mapsMemoryMibMax, mapsMemoryWithBalloon }: VmmCapabilities, size: MemorySize): boolean {
  if (ramMib(size) > (mapsMemoryMibMax ?? Number.POSITIVE_INFINITY)) return false;
  return vmMemory(size).balloonMib === undefined || mapsMemoryWithBalloon === true;
}

/** Size after the next growth step in MiB; `null` if the guest has its maximum. */
export function grownMib({ memoryMib, memoryMaxMib = 0 }: MemorySize): number | null {
  if (memoryMib >= memoryMaxMib) return null;
  return Math.min(memoryMaxMib, memoryMib + Math.max(STEP_MIB_MIN, Math.ceil(memoryMib / 2)));
}

/** Limits of a guest's programs. The others are the agent's defaults, which are shares of the guest's memory. */
export function guestLimits(size: MemorySize): GuestLimits {
  return grownMib(size) === null ? {} : { holdMs: RESIZE_LIMITS.holdMs };
}

/** Smaller steps could not keep up with a program that allocates as fast as it can. */
const STEP_MIB_MIN = 64;

export interface ResizeParts {
  readonly clock: Clock;
  readonly vm: Vm | undefined;
  readonly guest: Pick<Guest, 'update' | 'stats'>;
  readonly signal: AbortSignal;
}

/**
 * Sets the size after a start: a guest that boots inflates its balloon; a clone may differ in size from its snapshot.
 * @returns false if the guest did not follow in time. @throws VmmError, GuestError
 */
export async function fitMemory(parts: ResizeParts, size: MemorySize): Promise<boolean> {
  const balloon = parts.vm?.balloon;
  if (balloon === undefined) return true;
  const isThere = await moveTo(parts, balloon, size.memoryMib);
  await followMemory(parts, size);
  return isThere;
}

/**
 * @param changed called with the new size
 * @throws SandboxError `spec_invalid` if out of range (nothing has changed), `memory_unavailable` if the guest did not
 * follow in time (it may still take the memory); VmmError, GuestError
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
  // Growth counts at once: the guest may take the memory at any time from now on.
  const isThere = await moveTo(parts, balloon, toMib, () => isMore && changed(toMib));
  const hasMib = isMore || isThere ? toMib : fromMib;
  if (!isMore) {
    if (isThere) changed(toMib);
    // The guest keeps what it did not return.
    else await moveTo(parts, balloon, fromMib);
  }
  await followMemory(parts, { ...size, memoryMib: hasMib });
  if (isThere) return;
  const what = isMore ? 'take the new memory' : 'give memory back';
  throw new SandboxError('memory_unavailable', `the guest did not ${what} in time`);
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
  return new SandboxError('spec_invalid', 'memoryMib: the memory size of this sandbox is fixed', {
    remedy: 'create a sandbox with --memory-max (memoryMaxMib)',
  });
}

/** Shrinking must not cause an OOM kill. The guest's own report is trusted: a lie hurts only itself. */
async function requireFree({ guest }: ResizeParts, fromMib: number, toMib: number): Promise<void> {
  const { memoryAvailableBytes } = await guest.stats();
  const leastMib = Math.ceil(fromMib - memoryAvailableBytes / MIB) + RESIZE_LIMITS.freeMib;
  if (toMib >= leastMib) return;
  throw new SandboxError('memory_unavailable', 'its programs use more memory than that', {
    remedy: `use at least ${Math.min(leastMib, fromMib)} MiB`,
  });
}

/** @param asked called when the change is under way. @returns false if the guest stopped before the target */
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

/** Adapts the program limits to the guest's memory. @throws GuestError, also if there is no answer */
async function followMemory({ clock, guest, signal }: ResizeParts, size: MemorySize) {
  using limit = timeLimit(clock, RESIZE_LIMITS.answerMsMax, signal);
  await guest.update({ limits: guestLimits(size) }, limit.signal);
}
