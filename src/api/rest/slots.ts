import { FairShare, type FairShareLimits } from '../../base/fairness/fair-share.ts';
import { BusyError } from '../../sandbox/contract/errors.ts';
import { API_LIMITS } from './limits.ts';

/** A limit on concurrent operations of one kind; more are refused. */
export class Slots {
  readonly #what: string;
  readonly #max: number;
  readonly #perSandboxMax: number;
  readonly #ofSandbox = new Map<string, number>();
  #used = 0;

  /** @param what plural noun for the error message */
  constructor(what: string, max: number, perSandboxMax = max) {
    this.#what = what;
    this.#max = max;
    this.#perSandboxMax = perSandboxMax;
  }

  /**
   * Takes a slot. Returns the idempotent function that releases it.
   * @param sandbox id of the sandbox whose limit also applies
   * @throws BusyError
   */
  take(sandbox?: string): () => void {
    const used = sandbox === undefined ? 0 : (this.#ofSandbox.get(sandbox) ?? 0);
    if (used >= this.#perSandboxMax) throw this.#busy(`sandbox ${sandbox}: `, used);
    if (this.#used >= this.#max) throw this.#busy('', this.#max);
    this.#add(sandbox, 1);
    let held = true;
    return () => {
      if (held) this.#add(sandbox, -1);
      held = false;
    };
  }

  #add(sandbox: string | undefined, change: 1 | -1): void {
    this.#used += change;
    if (sandbox === undefined) return;
    const used = (this.#ofSandbox.get(sandbox) ?? 0) + change;
    if (used === 0) this.#ofSandbox.delete(sandbox);
    else this.#ofSandbox.set(sandbox, used);
  }

  #busy(where: string, used: number): BusyError {
    const message = `${where}${used} ${this.#what} are in progress, the maximum`;
    return new BusyError(message, API_LIMITS.retryAfterMs);
  }
}

interface TenantShares
  extends Pick<FairShareLimits, 'guaranteed' | 'places'>,
    Partial<Pick<FairShareLimits, 'ownMax'>> {
  /** Slots that tenants together leave to the operator. */
  readonly operatorMin: number;
}

/** `Slots` of all tenants: they share fairly, and the operator has whatever they leave. */
export class TenantSlots {
  readonly #what: string;
  readonly #slots: Slots;
  readonly #tenants: FairShare;

  constructor(what: string, max: number, { operatorMin, ...shares }: TenantShares, perSandboxMax = max) {
    this.#what = what;
    this.#slots = new Slots(what, max, perSandboxMax);
    this.#tenants = new FairShare({ ownMax: max, ...shares, sumMax: max - operatorMin });
  }

  /**
   * As `Slots.take`.
   * @param tenant `null` for the operator
   * @throws BusyError
   */
  take(tenant: string | null, sandbox?: string): () => void {
    const release = this.#slots.take(sandbox);
    if (tenant === null) return release;
    const share = this.#tenants.take(tenant, 1);
    if (share === undefined) {
      release();
      const used = this.#tenants.heldBy(tenant);
      const message = `tenant ${tenant}: ${used} ${this.#what} are in progress, its share`;
      throw new BusyError(message, API_LIMITS.retryAfterMs);
    }
    return () => {
      share.release();
      release();
    };
  }
}
