/**
 * The device's side of a split virtqueue (virtio 1.2, section 2.7) in memory that a hostile guest writes at the same
 * time.
 *
 * Everything that the guest wrote is read once and checked before it is used. A ring that breaks the rules makes `peek`
 * return `broken`, permanently: the specification has no way to continue (2.1.2, DEVICE_NEEDS_RESET).
 *
 * Completions are staged (`complete`) and shown to the guest together (`publish`).
 */
import {
  Chain,
  type Direction,
  MEMORY_GONE,
  type RingAddresses,
  type RingMemory,
  type RingProblem,
  type RingSource,
} from './ring-memory.ts';

const AVAILABLE_NO_INTERRUPT = 1;
const USED_NO_NOTIFY = 1;

type Peek = 'chain' | 'empty' | 'broken';

export class Virtqueue {
  /** The chain that the last `peek` found; not valid after `publish`. */
  readonly chain = new Chain();
  readonly #direction: Direction;
  #ring: RingMemory | undefined;
  #size = 0;
  #usesEventIndex = false;
  /** Next chain to take, and the first that the guest has not made available as far as known. */
  #takenIndex = 0;
  #availableIndex = 0;
  #usedIndex = 0;
  #publishedIndex = 0;
  #problem: string | undefined;

  constructor(direction: Direction) {
    this.#direction = direction;
  }

  get isRunning(): boolean {
    return this.#ring !== undefined;
  }

  /** Why `peek` returns `broken`; `publish` and `requestKick` can detect it, too. */
  get problem(): string | undefined {
    return this.#problem;
  }

  /** Index of the next chain to take: the answer to GET_VRING_BASE. */
  get availableIndex(): number {
    return this.#takenIndex;
  }

  get size(): number {
    return this.#size;
  }

  /** Chains that are completed and not yet shown to the guest. */
  get staged(): number {
    return (this.#usedIndex - this.#publishedIndex) & 0xffff;
  }

  /** Starts to serve a ring from chain number `base`. @returns a problem, or undefined */
  start(memory: RingSource, addresses: RingAddresses, base: number, usesEventIndex: boolean): RingProblem | undefined {
    const taken = base & 0xffff;
    const ring = memory.openRing(addresses, this.#direction, taken);
    if (typeof ring === 'string') return ring;
    this.#ring = ring;
    this.#size = addresses.size;
    this.#usesEventIndex = usesEventIndex;
    this.#takenIndex = taken;
    this.#availableIndex = taken;
    this.#usedIndex = ring.loadUsedIndex();
    this.#publishedIndex = this.#usedIndex;
    this.#problem = undefined;
    return undefined;
  }

  /** Follows a running ring into a new memory table. The caller has published its completions. */
  relocate(memory: RingSource, addresses: RingAddresses): RingProblem | undefined {
    const ring = memory.openRing(addresses, this.#direction, this.#takenIndex);
    if (typeof ring === 'string') return ring;
    this.#ring = ring;
    this.#availableIndex = this.#takenIndex;
    return undefined;
  }

  /** Forgets all memory. The caller has published its completions. */
  stop(): void {
    this.#ring = undefined;
    this.chain.regions.fill(undefined);
    this.chain.count = 0;
  }

  /** Chains that the guest has made available and that are not taken. */
  available(): number {
    const ring = this.#ring;
    if (ring === undefined) return 0;
    this.#availableIndex = ring.loadAvailableIndex();
    return this.#known;
  }

  /** Looks at the chain that is `ahead` places after the next one, without taking it. */
  peek(ahead: number): Peek {
    const ring = this.#ring;
    if (ring === undefined) return 'empty';
    if (this.#problem !== undefined) return 'broken';
    const waiting = ahead < this.#known ? this.#known : this.available();
    if (ring.fault !== undefined) return this.#faulty(ring.fault);
    if (waiting > this.#size) return this.#break(`${waiting} chains in a ring of ${this.#size}`);
    if (ahead >= waiting) return 'empty';
    const found = ring.readChain((this.#takenIndex + ahead) & 0xffff, this.chain);
    if (found === 'chain') return 'chain';
    return found === 'no-room' ? 'empty' : this.#break(found.problem);
  }

  consume(count: number): void {
    this.#takenIndex = (this.#takenIndex + count) & 0xffff;
  }

  /** Stages the return of a taken chain into which the device wrote `written` bytes; chains in order. */
  complete(head: number, written: number): void {
    this.#ring?.setUsed(this.#usedIndex, head, written);
    this.#usedIndex = (this.#usedIndex + 1) & 0xffff;
  }

  /**
   * Shows all staged completions to the guest.
   * @returns whether the guest wants an interrupt for them
   */
  publish(): boolean {
    let wantsInterrupt = false;
    while (this.staged > 0 && this.#ring !== undefined) wantsInterrupt = this.publishSome() || wantsInterrupt;
    return wantsInterrupt;
  }

  /** Shows as many of them as are best shown at once. @returns as `publish` */
  publishSome(): boolean {
    const ring = this.#ring;
    const { staged } = this;
    if (staged === 0 || ring === undefined) return false;
    const before = this.#publishedIndex;
    const after = (before + ring.chainsAtOnce(staged)) & 0xffff;
    this.#publishedIndex = after;
    const fault = ring.storeUsedIndex(before, after);
    if (fault !== undefined) {
      this.#publishedIndex = this.#usedIndex;
      this.#faulty(fault);
      return false;
    }
    if (!this.#usesEventIndex) return (ring.loadAvailableFlags() & AVAILABLE_NO_INTERRUPT) === 0;
    return ((after - ring.loadUsedEvent() - 1) & 0xffff) < ((after - before) & 0xffff);
  }

  /** Asks the guest not to kick. It is a hint: kicks may still come. */
  suppressKicks(): void {
    if (!this.#usesEventIndex) this.#ring?.storeUsedFlags(USED_NO_NOTIFY);
  }

  /** Announces that `requestKick` follows the next `publish`, which can then save a store. */
  prepareKickRequest(): void {
    if (this.#usesEventIndex) this.#ring?.stageAvailableEvent(this.#takenIndex);
  }

  /**
   * Requests a kick when the next chain comes.
   * @returns whether a chain waits, which may have come meanwhile, without a kick
   */
  requestKick(): boolean {
    const ring = this.#ring;
    if (ring === undefined || this.#problem !== undefined) return false;
    if (this.#usesEventIndex) ring.storeAvailableEvent(this.#takenIndex);
    else ring.storeUsedFlags(0);
    this.#availableIndex = ring.loadAvailableIndexAfterStore();
    const isWaiting = this.#known !== 0;
    if (ring.fault === undefined) return isWaiting;
    this.#faulty(ring.fault);
    return false;
  }

  /** Chains that are known to wait. */
  get #known(): number {
    return (this.#availableIndex - this.#takenIndex) & 0xffff;
  }

  /** A VMM that has ended breaks no rule. */
  #faulty(fault: string): 'empty' | 'broken' {
    return fault === MEMORY_GONE ? 'empty' : this.#break(fault);
  }

  #break(problem: string): 'broken' {
    this.#problem = problem;
    return 'broken';
  }
}
