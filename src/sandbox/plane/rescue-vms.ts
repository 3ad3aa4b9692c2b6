/**
 * Rescue VMs. Each boots a copy of the disk of a sandbox whose pause this version can't resume, so that its files can be
 * read. It has no network, secrets, packages or models, and runs no program of the sandbox; the pause stays as it is.
 *
 *     callers ──► boot, once for all; canceled when the last caller leaves ──► ready ── idle ──► end
 */
import type { Clock } from '../../base/clock.ts';
import { ignore } from '../../base/ignore.ts';
import { orAborted } from '../../base/time-limit.ts';
import { SandboxError } from '../contract/errors.ts';
import { DEFAULTS } from '../contract/limits.ts';
import type { ResolvedOptions, SandboxSpec } from '../contract/spec.ts';
import type { Starter } from '../start/starter.ts';
import type { Supervisor } from '../vm/supervisor.ts';
import { IdleWatch } from './idle-watch.ts';
import { activityOf } from './lifetime.ts';
import type { ManagedSandbox } from './managed.ts';
import type { SnapshotManager } from './snapshot-manager.ts';

export interface RescueParts {
  readonly clock: Clock;
  readonly snapshots: Pick<SnapshotManager, 'open'>;
  readonly start: Starter['startFrom'];
  makeSpec(options: ResolvedOptions): SandboxSpec;
}

/** Without an open operation for this long, it ends. */
export const RESCUE_IDLE_MS = 10_000;

type Rescued = Pick<ManagedSandbox, 'id' | 'spec' | 'policy'>;

interface Rescue {
  readonly sandbox: string;
  /** Aborted: it ends, and takes no more callers. */
  readonly aborter: AbortController;
  readonly starting: Promise<Supervisor>;
  readonly idle: IdleWatch;
  vm: Supervisor | undefined;
  callers: number;
  /** Resolves when nothing is left of it. */
  over: Promise<void>;
}

export class RescueVms {
  readonly #parts: RescueParts;
  readonly #all = new Set<Rescue>();

  constructor(parts: RescueParts) {
    this.#parts = parts;
  }

  /** @param snapshotId the sandbox's pause. @throws SandboxError as a resume; StoreError */
  async open(sandbox: Rescued, snapshotId: string, signal?: AbortSignal): Promise<Supervisor> {
    const current = [...this.#all].find((one) => one.sandbox === sandbox.id && !one.aborter.signal.aborted);
    const rescue = current ?? this.#begin(sandbox, snapshotId);
    rescue.callers += 1;
    try {
      const vm = await (signal === undefined ? rescue.starting : orAborted(rescue.starting, signal));
      rescue.idle.touch();
      return vm;
    } finally {
      rescue.callers -= 1;
      if (rescue.callers === 0 && rescue.vm === undefined) rescue.aborter.abort(ending(sandbox.id));
    }
  }

  /** Ends those of the sandbox; by default all. */
  async end(sandbox?: string): Promise<void> {
    const ended = [...this.#all].filter((one) => sandbox === undefined || one.sandbox === sandbox);
    for (const one of ended) one.aborter.abort(ending(one.sandbox));
    await Promise.all(ended.map(({ over }) => over));
  }

  #begin(sandbox: Rescued, snapshotId: string): Rescue {
    const { clock } = this.#parts;
    const aborter = new AbortController();
    const rescue: Rescue = {
      sandbox: sandbox.id,
      aborter,
      starting: this.#start(sandbox, snapshotId, aborter.signal),
      idle: new IdleWatch({
        clock,
        read: () => activityOf(rescue.vm),
        onIdle: () => aborter.abort(ending(sandbox.id)),
      }),
      vm: undefined,
      callers: 0,
      over: Promise.resolve(),
    };
    this.#all.add(rescue);
    rescue.over = this.#attend(rescue).finally(() => this.#all.delete(rescue));
    return rescue;
  }

  async #start({ id, spec, policy }: Rescued, snapshotId: string, signal: AbortSignal): Promise<Supervisor> {
    const { snapshots, start, makeSpec } = this.#parts;
    await using lease = await snapshots.open(snapshotId, 'files');
    const { memoryMib, diskMib, environment, diskLimits, channelLimits } = spec;
    const own = makeSpec({
      memoryMib: Math.min(memoryMib, DEFAULTS.memoryMib),
      diskMib,
      models: { allow: [] },
      ...(environment === undefined ? {} : { environment }),
    });
    const owner = { annotations: policy.annotations, resumes: id };
    return await lease.orDamage(start({ ...own, diskLimits, channelLimits }, lease.source, owner, signal));
  }

  /** Never rejects. */
  async #attend(rescue: Rescue): Promise<void> {
    const { starting, aborter, idle } = rescue;
    try {
      const vm = await starting;
      rescue.vm = vm;
      const stop = (): void => void vm.stop();
      if (aborter.signal.aborted) stop();
      else aborter.signal.addEventListener('abort', stop, { once: true });
      idle.start(RESCUE_IDLE_MS);
      await vm.ended;
    } catch (error) {
      ignore(error, 'its callers get it');
    } finally {
      // A VM that died takes no more callers.
      aborter.abort(ending(rescue.sandbox));
      idle.stop();
    }
  }
}

function ending(sandbox: string): SandboxError {
  return new SandboxError('cancelled', `the VM that reads the files of sandbox ${sandbox} is ending`);
}
