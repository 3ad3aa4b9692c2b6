/**
 * Finds the sandbox whose token signed a file URL that does not name the sandbox. A signature can only be recomputed
 * and compared for each live sandbox. So tokens are kept, found signatures are remembered, and the time for all others
 * is bounded, since any caller can send a wrong signature.
 */
import { timingSafeEqual } from 'node:crypto';
import { LoopTime } from '../../../base/fairness/loop-time.ts';
import type { ControlPlane } from '../../../sandbox/contract/control.ts';
import { BusyError } from '../../../sandbox/contract/errors.ts';
import { E2B_LIMITS } from '../limits.ts';
import type { E2bParts } from '../parts.ts';
import { fileSignature, type SignedFile } from '../tokens.ts';

type SignerParts = Pick<E2bParts, 'tokens' | 'clock'> & { readonly control: Pick<ControlPlane, 'list' | 'onChange'> };

export type Signed = SignedFile & { readonly signature: string };

export class Signers implements Disposable {
  readonly #parts: SignerParts;
  readonly #time: LoopTime;
  readonly #live = new Map<string, string>();
  readonly #found = new Map<string, string>();
  readonly #stop: () => void;

  private constructor(parts: SignerParts, cpuMs?: () => number) {
    this.#parts = parts;
    this.#time = new LoopTime(E2B_LIMITS.signersMs, parts.clock, cpuMs);
    this.#stop = parts.control.onChange(({ id, status }) => {
      if (status === 'ended') this.#live.delete(id);
      else this.#add(id);
    });
  }

  /** @param cpuMs for tests */
  static async open(parts: SignerParts, cpuMs?: () => number): Promise<Signers> {
    const ended = new Set<string>();
    const stop = parts.control.onChange(({ id, status }) => {
      if (status === 'ended') ended.add(id);
    });
    const made = new Signers(parts, cpuMs);
    for (const { id } of await parts.control.list()) if (!ended.has(id)) made.#add(id);
    stop();
    return made;
  }

  /** Id of the sandbox; `null` if none made the signature. @throws BusyError */
  find(signed: Signed): string | null {
    const known = this.#found.get(signed.signature);
    if (known !== undefined && this.#isOf(known, signed)) return known;
    const { waitMs } = this.#time;
    if (!this.#time.isOpen) throw new BusyError('too many signed URLs without a sandbox', waitMs);
    const id = this.#time.run(() => this.#search(signed));
    if (id !== null) this.#remember(signed.signature, id);
    return id;
  }

  [Symbol.dispose](): void {
    this.#stop();
    this.#live.clear();
  }

  #search(signed: Signed): string | null {
    for (const id of this.#live.keys()) if (this.#isOf(id, signed)) return id;
    return null;
  }

  #isOf(id: string, signed: Signed): boolean {
    const token = this.#live.get(id);
    if (token === undefined) return false;
    const [given, made] = [Buffer.from(signed.signature), Buffer.from(fileSignature(signed, token))];
    return given.length === made.length && timingSafeEqual(given, made);
  }

  #add(id: string): void {
    if (!this.#live.has(id)) this.#live.set(id, this.#parts.tokens.envd(id));
  }

  #remember(signature: string, id: string): void {
    this.#found.set(signature, id);
    const [oldest] = this.#found.keys();
    if (this.#found.size > E2B_LIMITS.signaturesMax && oldest !== undefined) {
      this.#found.delete(oldest);
    }
  }
}
