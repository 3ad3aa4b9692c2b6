/**
 * Memory growth of a sandbox with a maximum: one step for each pressure report of its guest.
 *
 * A guest that reports pressure without need reaches its maximum and no more. Only the owner shrinks it.
 */
import type { Clock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { EventSink, SandboxEventBody } from '../contract/events.ts';
import { grownMib, type MemorySize } from './size.ts';

/** No further step for this time after a failed one. */
export const GROW_HOLD_OFF_MS = 10_000;

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
   * Reserves host memory for one step, MiB; returns a function that releases it. If omitted, there is no limit.
   * @throws SandboxError `memory_unavailable`
   */
  readonly reserve?: ((memoryMib: number) => () => void) | undefined;
}

/** A growth step. Pressure reports during a step join it. */
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
   * Resolves when the step, if any, is done. Never rejects.
   * @returns whether the guest has more memory than at the report
   */
  async take(sandbox: GrowingSandbox, event: SandboxEventBody): Promise<boolean> {
    if (event.type !== 'near_oom' && event.type !== 'pressure') return false;
    if (event.source !== 'guest') return false;
    const growth = this.#growths.get(sandbox) ?? { step: undefined, failedAtMs: Number.NEGATIVE_INFINITY };
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
      // Several sandboxes may be under pressure at once, and each sees the same free memory.
      release = reserve?.(toMib - fromMib);
      await sandbox.growMemory(toMib);
      log.info('the memory of a sandbox grew', { sandbox: sandbox.id, fromMib, toMib });
      return true;
    } catch (error) {
      const detail = `${fromMib} to ${toMib} MiB: ${describeError(error)}`;
      log.warn('the memory of a sandbox could not grow', { sandbox: sandbox.id, detail });
      sandbox.events.note({ type: 'action', action: 'grow', ok: false, detail });
      return false;
    } finally {
      release?.();
    }
  }
}
