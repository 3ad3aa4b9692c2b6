/**
 * Finds the sandboxes that hosts of requests name. Whoever sends them needs no key, so names that mean no sandbox must
 * cost little: a limited number of them is looked up in the store, which other processes may use, too.
 */
import type { Clock } from '../../../base/clock.ts';
import { CodedError } from '../../../base/errors.ts';
import { TokenBucket } from '../../../base/token-bucket.ts';
import type { ControlPlane, SandboxInfo } from '../../../sandbox/contract/control.ts';
import { TRAFFIC_LIMITS } from './limits.ts';

export interface LookupParts {
  readonly control: Pick<ControlPlane, 'get' | 'list' | 'onChange'>;
  readonly clock: Clock;
}

export class SandboxLookup implements Disposable {
  readonly #parts: LookupParts;
  /** Sandboxes that this process has seen and that have not ended: never limited. */
  readonly #known = new Set<string>();
  readonly #unknown: TokenBucket;
  readonly #stop: () => void;

  static async open(parts: LookupParts): Promise<SandboxLookup> {
    const lookup = new SandboxLookup(parts);
    for (const { id } of await parts.control.list()) lookup.#known.add(id);
    return lookup;
  }

  private constructor(parts: LookupParts) {
    this.#parts = parts;
    this.#unknown = new TokenBucket(TRAFFIC_LIMITS.unknownIds, parts.clock.now());
    this.#stop = parts.control.onChange(({ id, status }) => {
      if (status === 'ended') this.#known.delete(id);
      else this.#known.add(id);
    });
  }

  /** @returns null if there is none, if it has ended, or if too many unknown ids were looked up */
  async find(id: string): Promise<SandboxInfo | null> {
    const { control, clock } = this.#parts;
    if (!this.#known.has(id)) {
      if (!this.#unknown.tryOpen(clock.now())) return null;
      this.#unknown.spend(1);
    }
    try {
      const info = await control.get(id);
      if (info.status !== 'ended') {
        this.#known.add(id);
        return info;
      }
      this.#known.delete(id);
    } catch (error) {
      if (!(error instanceof CodedError)) throw error;
      // Other errors, such as a busy store, say nothing about the sandbox.
      if (error.code === 'not_found') this.#known.delete(id);
    }
    return null;
  }

  [Symbol.dispose](): void {
    this.#stop();
  }
}
