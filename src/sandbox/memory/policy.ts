/**
 * The action when a sandbox is close to OOM, before the guest's kernel kills:
 *
 *     warn       writes to the log (the event stream has the event in every case)
 *     pause      stops the CPUs: nothing is killed until the owner resumes the sandbox
 *     snapshot   saves the state as `near-oom-<id>-<n>`; the sandbox continues, and programs may be killed
 *     http://…   posts the event to this URL as JSON
 *
 * A sandbox with a memory maximum grows first; the action follows at the maximum, or if growth fails. `grow` means
 * growth and then `warn`.
 */

import { describeError, errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import type { MemoryAction } from '../contract/control.ts';
import { SandboxError } from '../contract/errors.ts';
import type { ActionEvent, TimedEvent } from '../contract/events.ts';
import { type GrowingSandbox, type GrowthParts, MemoryGrowth } from './growth.ts';

export const POLICY_LIMITS = {
  /** Minimum time between two actions on one sandbox: the owner's time to react after a resume. */
  holdOffMs: 30_000,
  /** Maximum over a sandbox's life; each snapshot may be as large as its memory. */
  snapshotsMax: 3,
} as const;

export interface PressedSandbox extends GrowingSandbox {
  readonly policy: { readonly onMemoryPressure: MemoryAction };
  pause(to: 'memory'): Promise<void>;
  snapshot(name: string): Promise<unknown>;
}

export interface PolicyParts extends GrowthParts {
  /** Posts an event within seconds. Omitted if this host can't. */
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

  /** Resolves when growth or action is done. Never rejects. */
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
    this.#parts.log.warn('a sandbox is close to OOM', fields);
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

  /** Returns the snapshot's name. @throws SandboxError `snapshot_failed` if the sandbox has its maximum of snapshots */
  async #snapshot(sandbox: PressedSandbox, acted: Acted): Promise<string> {
    while (acted.snapshots < POLICY_LIMITS.snapshotsMax) {
      acted.snapshots += 1;
      const name = `near-oom-${sandbox.id}-${acted.snapshots}`;
      try {
        await sandbox.snapshot(name);
        return name;
      } catch (error) {
        if (errorCode(error) !== 'name_taken') throw error;
        ignore(error, 'taken by an earlier process that held the sandbox');
      }
    }
    const text = `it already has ${POLICY_LIMITS.snapshotsMax} snapshots of this kind`;
    throw new SandboxError('snapshot_failed', text);
  }
}
