/**
 * More memory for a sandbox that has a maximum beyond it: a step each time that its guest says it is pressed.
 *
 * A guest that says so without need gets to its maximum and no further: there is no way down but its owner's.
 */
import type { Clock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { EventSink, SandboxEventBody } from '../events.ts';
import { grownMib, type MemorySize } from './size.ts';

/** After a step that failed, milliseconds. */
export const GROW_HOLD_OFF_MS = 10_000;

/** A sandbox, as far as it is given more. */
export interface GrowingSandbox {
  readonly id: string;
  readonly spec: MemorySize;
  readonly events: EventSink;
  growMemory(memoryMib: number): Promise<void>;
}

export interface GrowthParts {
  readonly clock: Clock;
  readonly log: Log;
  /**
   * Keeps memory of the host for one step, MiB; returns how to let go of it. Absent: as much as is asked for.
   * @throws SandboxError `memory_unavailable`
   */
  readonly reserve?: ((memoryMib: number) => () => void) | undefined;
}

/** What is told while a step is under way is answered by that step. */
interface Growth {
  step: Promise<boolean> | undefined;
  failedAtMs: number;
}

export class MemoryGrowth {
  readonly #parts: GrowthParts;
  readonly #growths = new WeakMap<GrowingSandbox, Growth>();

  constructor(parts: GrowthParts) {
    this.#parts = parts;
  }

  /**
   * Resolves when what is to be done is done. Never rejects.
   * @returns whether it has more than it had when it was pressed
   */
  async take(sandbox: GrowingSandbox, event: SandboxEventBody): Promise<boolean> {
    if (event.type !== 'near_oom' && event.type !== 'pressure') return false;
    if (event.source !== 'guest') return false;
    const growth = this.#growths.get(sandbox) ?? {
      step: undefined,
      failedAtMs: Number.NEGATIVE_INFINITY,
    };
    this.#growths.set(sandbox, growth);
    if (growth.step !== undefined) return await growth.step;
    const toMib = grownMib(sandbox.spec);
    const sinceMs = this.#parts.clock.now() - growth.failedAtMs;
    if (toMib === null || sinceMs < GROW_HOLD_OFF_MS) return false;
    growth.step = this.#grow(sandbox, toMib);
    const isDone = await growth.step;
    growth.step = undefined;
    if (!isDone) growth.failedAtMs = this.#parts.clock.now();
    return isDone;
  }

  async #grow(sandbox: GrowingSandbox, toMib: number): Promise<boolean> {
    const { log, reserve } = this.#parts;
    const { memoryMib: fromMib } = sandbox.spec;
    let release: (() => void) | undefined;
    try {
      // All sandboxes at once may be pressed, and each sees the same room.
      release = reserve?.(toMib - fromMib);
      await sandbox.growMemory(toMib);
      log.info('a sandbox was given more memory', { sandbox: sandbox.id, fromMib, toMib });
      return true;
    } catch (error) {
      const detail = `${fromMib} to ${toMib} MiB: ${describeError(error)}`;
      log.warn('a sandbox could not be given more memory', { sandbox: sandbox.id, detail });
      sandbox.events.note({ type: 'action', action: 'grow', ok: false, detail });
      return false;
    } finally {
      release?.();
    }
  }
}
