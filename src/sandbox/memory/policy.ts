/**
 * What is done when a sandbox comes near its limit of memory, before the guest's kernel kills:
 *
 *     warn       the log says so (and the event stream, as in every case)
 *     pause      its processors stop: nothing is killed until somebody has looked and resumes it
 *     snapshot   its state is kept as `near-oom-<id>-<n>`; it goes on, and may be killed
 *     http://…   the event is posted there as JSON
 *
 * A sandbox that has a maximum beyond its memory is given more first; the above is what comes when it has all of it,
 * or can't be given more. `grow` is that and then `warn`.
 */

import { describeError, errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import type { MemoryAction } from '../control.ts';
import { SandboxError } from '../errors.ts';
import type { ActionEvent, TimedEvent } from '../events.ts';
import { type GrowingSandbox, type GrowthParts, MemoryGrowth } from './growth.ts';

export const POLICY_LIMITS = {
  /** Between two actions on one sandbox, milliseconds: who resumes a paused one gets that much time. */
  holdOffMs: 30_000,
  /** In the life of a sandbox; each may be as large as its memory. */
  snapshotsMax: 3,
} as const;

/** A sandbox, as far as something is done to it. */
export interface PressedSandbox extends GrowingSandbox {
  readonly policy: { readonly onMemoryPressure: MemoryAction };
  pause(to: 'memory'): Promise<void>;
  snapshot(name: string): Promise<unknown>;
}

export interface PolicyParts extends GrowthParts {
  /** Posts an event, within seconds. Absent: this host has no way to. */
  readonly notify?: ((url: string, event: object) => Promise<void>) | undefined;
}

interface Acted {
  atMs: number;
  snapshots: number;
}

export class MemoryPolicy {
  readonly #parts: PolicyParts;
  readonly #acted = new WeakMap<PressedSandbox, Acted>();
  readonly #growth: MemoryGrowth;

  constructor(parts: PolicyParts) {
    this.#parts = parts;
    this.#growth = new MemoryGrowth(parts);
  }

  /** Resolves when what is to be done is done. Never rejects. */
  async take(sandbox: PressedSandbox, event: TimedEvent): Promise<void> {
    if (await this.#growth.take(sandbox, event)) return;
    if (event.type === 'near_oom') await this.#takeAction(sandbox, event);
  }

  async #takeAction(sandbox: PressedSandbox, event: TimedEvent): Promise<void> {
    const { clock } = this.#parts;
    const acted = this.#acted.get(sandbox) ?? { atMs: Number.NEGATIVE_INFINITY, snapshots: 0 };
    if (clock.now() - acted.atMs < POLICY_LIMITS.holdOffMs) return;
    acted.atMs = clock.now();
    this.#acted.set(sandbox, acted);
    const { onMemoryPressure } = sandbox.policy;
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
