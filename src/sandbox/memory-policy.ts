/**
 * What is done when a sandbox comes near its limit of memory, before the guest's kernel kills:
 *
 *     warn       the log says so (and the event stream, as in every case)
 *     pause      its processors stop: nothing is killed until somebody has looked and resumes it
 *     snapshot   its state is kept as `near-oom-<id>-<n>`; it goes on, and may be killed
 *     http://…   the event is posted there as JSON
 *
 * A sandbox that has a maximum beyond its memory is given more first, a step each time that its guest says it is
 * pressed; the above is what comes when it has all of it, or can't be given more. `grow` is that and then `warn`.
 *
 * A guest that says so without need gets to its maximum and no further: there is no way down but its owner's.
 */
import type { Clock } from '../base/clock.ts';
import { describeError, errorCode } from '../base/errors.ts';
import { ignore } from '../base/ignore.ts';
import type { Log } from '../base/log.ts';
import { SandboxError } from './errors.ts';
import type { ActionEvent, EventJournal, TimedEvent } from './event-journal.ts';
import { grownMib, type MemorySize } from './memory-size.ts';

export type MemoryAction =
  | 'warn'
  | 'grow'
  | 'pause'
  | 'snapshot'
  | `http://${string}`
  | `https://${string}`;

export const POLICY_LIMITS = {
  /** Between two actions on one sandbox, milliseconds: who resumes a paused one gets that much time. */
  holdOffMs: 30_000,
  /** After a step that failed. */
  growHoldOffMs: 10_000,
  /** In the life of a sandbox; each may be as large as its memory. */
  snapshotsMax: 3,
  urlCharactersMax: 2048,
} as const;

/** A sandbox, as far as something is done to it. */
export interface PressedSandbox {
  readonly id: string;
  readonly terms: { readonly onMemoryPressure: MemoryAction };
  readonly spec: MemorySize;
  readonly events: EventJournal;
  pause(to: 'memory'): Promise<void>;
  snapshot(name: string): Promise<unknown>;
  resizeMemory(memoryMib: number, by: 'pressure'): Promise<void>;
}

export interface PolicyParts {
  readonly clock: Clock;
  readonly log: Log;
  /**
   * Keeps memory of the host for one step, MiB; returns how to let go of it. Absent: as much as is asked for.
   * @throws SandboxError `memory_unavailable`
   */
  readonly reserve?: ((memoryMib: number) => () => void) | undefined;
  /** Posts an event, within seconds. Absent: this host has no way to. */
  readonly notify?: ((url: string, event: object) => Promise<void>) | undefined;
}

interface Acted {
  atMs: number;
  snapshots: number;
}

/** What is told while a step is under way is answered by that step. */
interface Growth {
  step: Promise<boolean> | undefined;
  failedAtMs: number;
}

export class MemoryPolicy {
  readonly #parts: PolicyParts;
  readonly #acted = new WeakMap<PressedSandbox, Acted>();
  readonly #growths = new WeakMap<PressedSandbox, Growth>();

  constructor(parts: PolicyParts) {
    this.#parts = parts;
  }

  /** Resolves when what is to be done is done. Never rejects. */
  async take(sandbox: PressedSandbox, event: TimedEvent): Promise<void> {
    if (event.type !== 'near_oom' && event.type !== 'pressure') return;
    if (event.source === 'guest' && (await this.#hasGrown(sandbox))) return;
    if (event.type === 'near_oom') await this.#takeAction(sandbox, event);
  }

  async #takeAction(sandbox: PressedSandbox, event: TimedEvent): Promise<void> {
    const { clock } = this.#parts;
    const acted = this.#acted.get(sandbox) ?? { atMs: Number.NEGATIVE_INFINITY, snapshots: 0 };
    if (clock.now() - acted.atMs < POLICY_LIMITS.holdOffMs) return;
    acted.atMs = clock.now();
    this.#acted.set(sandbox, acted);
    const { onMemoryPressure } = sandbox.terms;
    const action = onMemoryPressure === 'grow' ? 'warn' : onMemoryPressure;
    const kind = action.startsWith('http') ? 'webhook' : (action as ActionEvent['action']);
    let outcome: Pick<ActionEvent, 'ok' | 'detail'>;
    try {
      outcome = { ok: true, detail: await this.#act(sandbox, action, event, acted) };
    } catch (error) {
      outcome = { ok: false, detail: describeError(error) };
    }
    const fields = { sandbox: sandbox.id, action: kind, ...outcome };
    this.#parts.log.warn('a sandbox is near its limit of memory', fields);
    sandbox.events.note({ type: 'action', action: kind, ...outcome });
  }

  /** Whether it has more than it had when it was pressed. */
  async #hasGrown(sandbox: PressedSandbox): Promise<boolean> {
    const growth = this.#growths.get(sandbox) ?? {
      step: undefined,
      failedAtMs: Number.NEGATIVE_INFINITY,
    };
    this.#growths.set(sandbox, growth);
    if (growth.step !== undefined) return await growth.step;
    const toMib = grownMib(sandbox.spec);
    const sinceMs = this.#parts.clock.now() - growth.failedAtMs;
    if (toMib === null || sinceMs < POLICY_LIMITS.growHoldOffMs) return false;
    growth.step = this.#grow(sandbox, toMib);
    const isDone = await growth.step;
    growth.step = undefined;
    if (!isDone) growth.failedAtMs = this.#parts.clock.now();
    return isDone;
  }

  async #grow(sandbox: PressedSandbox, toMib: number): Promise<boolean> {
    const { log, reserve } = this.#parts;
    const { memoryMib: fromMib } = sandbox.spec;
    let release: (() => void) | undefined;
    try {
      // All sandboxes at once may be pressed, and each sees the same room.
      release = reserve?.(toMib - fromMib);
      await sandbox.resizeMemory(toMib, 'pressure');
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

  async #act(
    sandbox: PressedSandbox,
    action: Exclude<MemoryAction, 'grow'>,
    event: TimedEvent,
    acted: Acted,
  ): Promise<string> {
    if (action === 'warn') return '';
    if (action === 'pause') {
      await sandbox.pause('memory');
      return '';
    }
    if (action === 'snapshot') return await this.#snapshot(sandbox, acted);
    const { notify } = this.#parts;
    if (notify === undefined) throw new Error('this host posts no events');
    await notify(action, { sandbox: sandbox.id, ...event });
    return '';
  }

  /** @returns its name. @throws SandboxError `snapshot_failed`: it has as many as it may */
  async #snapshot(sandbox: PressedSandbox, acted: Acted): Promise<string> {
    while (acted.snapshots < POLICY_LIMITS.snapshotsMax) {
      acted.snapshots += 1;
      const name = `near-oom-${sandbox.id}-${acted.snapshots}`;
      try {
        await sandbox.snapshot(name);
        return name;
      } catch (error) {
        if (errorCode(error) !== 'name_taken') throw error;
        ignore(error, 'taken by the process that had it before this one');
      }
    }
    const text = `it has ${POLICY_LIMITS.snapshotsMax} snapshots of this kind already`;
    throw new SandboxError('snapshot_failed', text);
  }
}

/** @param canGrow it has a maximum. @throws SandboxError `spec_invalid` */
export function checkAction(action: string | undefined, canGrow = false): void {
  if (action === undefined || ['warn', 'pause', 'snapshot'].includes(action)) return;
  if (action === 'grow') {
    if (canGrow) return;
    throw new SandboxError(
      'spec_invalid',
      'sandbox option onMemoryPressure: grow is of a sandbox with a maximum beyond its memory',
      { remedy: 'make it with --memory-max (memoryMaxMib)' },
    );
  }
  const url = action.length <= POLICY_LIMITS.urlCharactersMax ? URL.parse(action) : null;
  const isWeb = url !== null && ['http:', 'https:'].includes(url.protocol);
  if (isWeb && url.username === '' && url.password === '') return;
  throw new SandboxError(
    'spec_invalid',
    'sandbox option onMemoryPressure: it is warn, grow, pause, snapshot or an http(s) URL without a password',
  );
}
