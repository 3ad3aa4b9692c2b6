/**
 * The queues in front of upstreams, one for each whose number of slots is known (io: timers only). An upstream never
 * has more requests than slots: it would serve those in a queue of its own in its own order.
 *
 *     enter ─┬─ waits ── turn ──► charge … release
 *            ├─ refused: no room, or timeout
 *            └─ aborted: leaves at once
 */
import type { Clock } from '../../../base/clock.ts';
import { FairShare, type FairShareLimits } from '../../../base/fairness/fair-share.ts';
import { accepted, type Checked, type Refusal, refused } from '../../../base/http/refusal.ts';
import type { Metric } from '../../../base/metrics.ts';
import { MODEL_PRIORITIES, type ModelPriority } from '../../../base/request/model-limits.ts';
import { endpointOf, type UpstreamTarget } from '../upstream/address.ts';
import { type DropReason, QueueMetrics } from './queue-metrics.ts';
import { type Ticket, TokenScheduler } from './token-scheduler.ts';

export interface QueueLimits {
  /** Requests that wait for one upstream, by tenant; more get 503. */
  readonly waiting: FairShareLimits;
  /** Wait of one request; longer gets 503. */
  readonly waitMsMax: number;
  /** Wait after which a request counts as one band better. */
  readonly agingMs: number;
}

export const QUEUE_LIMITS: QueueLimits = {
  waiting: { sumMax: 1024, ownMax: 512, guaranteed: 32, places: 16 },
  waitMsMax: 600_000,
  agingMs: 30_000,
};

/** More than `models.toml` may name. Engines have a new address at each start, so idle queues are dropped. */
const QUEUES_MAX = 256;

/** As in the paper: a token of an answer takes an upstream about as long as two of a prompt. */
const INPUT_WEIGHT = 1;
const OUTPUT_WEIGHT = 2;

export interface QueuedRequest {
  /** `null` for the operator. */
  readonly tenant: string | null;
  readonly sandboxId: string;
  readonly priority: ModelPriority;
  readonly inputTokens: number;
  readonly outputTokens: number;
}

export interface Turn {
  /** Corrects the charge to what the request has used so far. */
  charge(inputTokens: number, outputTokens: number): void;
  isWanted(): boolean;
  /** Idempotent. */
  release(): void;
}

export interface UpstreamLoad {
  readonly requests: number;
  readonly isBusy: boolean;
}

export class UpstreamQueues {
  readonly #clock: Clock;
  readonly #limits: QueueLimits;
  readonly #queues = new Map<string, UpstreamQueue>();
  /** Numbers of requests at upstreams whose slots are not known. */
  readonly #free = new Map<string, number>();
  readonly #metrics = new QueueMetrics(
    () => this.counts(),
    () => this.longestWaitMs(),
  );

  constructor(clock: Clock, limits: QueueLimits = QUEUE_LIMITS) {
    this.#clock = clock;
    this.#limits = limits;
  }

  counts(): { readonly waiting: number; readonly running: number } {
    let waiting = 0;
    let running = 0;
    for (const queue of this.#queues.values()) {
      waiting += queue.waiting;
      running += queue.running;
    }
    return { waiting, running };
  }

  /** Longest wait of the requests that wait now; 0 if there is none. */
  longestWaitMs(): number {
    const since = [...this.#queues.values()].map(({ waitingSinceMs }) => waitingSinceMs);
    const nowMs = this.#clock.now();
    return Math.max(0, ...since.map((atMs) => (atMs === null ? 0 : nowMs - atMs)));
  }

  metrics(): readonly Metric[] {
    return this.#metrics.list();
  }

  load(target: UpstreamTarget): UpstreamLoad {
    const { slots } = target;
    const { key } = endpointOf(target);
    if (slots === undefined) return { requests: this.#free.get(key) ?? 0, isBusy: false };
    const { waiting = 0, running = 0 } = this.#queues.get(key) ?? {};
    return { requests: waiting + running, isBusy: waiting > 0 || running >= slots };
  }

  /**
   * Resolves with a turn, which the caller must release, or a refusal. @throws the signal's reason, after leaving the
   * queue
   */
  async enter(target: UpstreamTarget, request: QueuedRequest, signal: AbortSignal): Promise<Checked<Turn>> {
    const { slots } = target;
    signal.throwIfAborted();
    // Requests of all paths of a server share its slots.
    const { key } = endpointOf(target);
    if (slots === undefined) return accepted(this.#freeTurn(key));
    let queue = this.#queues.get(key);
    if (queue === undefined) {
      if (this.#queues.size >= QUEUES_MAX) this.#dropIdle();
      queue = new UpstreamQueue(this.#clock, this.#limits, slots);
      this.#queues.set(key, queue);
    }
    const { priority } = request;
    const begunAtMs = this.#clock.now();
    const left = await queue.enter(request, slots, signal);
    if (typeof left !== 'string') {
      this.#metrics.countWait(priority, this.#clock.now() - begunAtMs);
      return accepted(left);
    }
    this.#metrics.countDrop(priority, left);
    signal.throwIfAborted();
    const { status, code, message, ...more } = DROPPED[left];
    return refused(status, code, message, more);
  }

  #dropIdle(): void {
    for (const [key, { waiting, running }] of this.#queues) {
      if (waiting === 0 && running === 0) this.#queues.delete(key);
    }
  }

  #freeTurn(key: string): Turn {
    const count = (change: 1 | -1): void => {
      const left = (this.#free.get(key) ?? 0) + change;
      if (left === 0) this.#free.delete(key);
      else this.#free.set(key, left);
    };
    let isHeld = true;
    count(1);
    return {
      charge: () => undefined,
      isWanted: () => false,
      release: () => {
        if (isHeld) count(-1);
        isHeld = false;
      },
    };
  }
}

const RETRY_AFTER_SECONDS = 5;

const DROPPED: Readonly<Record<DropReason, Refusal>> = {
  full: {
    status: 503,
    code: 'queue_full',
    message: 'Too many requests wait for the model server already. Retry later.',
    retryAfterSeconds: RETRY_AFTER_SECONDS,
  },
  timeout: {
    status: 503,
    code: 'queue_timeout',
    message: 'The request has waited too long for the model server, which is busy. Retry later.',
    retryAfterSeconds: RETRY_AFTER_SECONDS,
  },
  cancelled: { status: 503, code: 'cancelled', message: 'The request was canceled.' },
};

class UpstreamQueue {
  readonly #clock: Clock;
  readonly #limits: QueueLimits;
  readonly #scheduler: TokenScheduler;
  readonly #room: FairShare;
  readonly #waiting = new Map<Ticket, (left: Turn | DropReason) => void>();

  constructor(clock: Clock, limits: QueueLimits, slots: number) {
    this.#clock = clock;
    this.#limits = limits;
    this.#scheduler = new TokenScheduler({ slots, agingMs: limits.agingMs });
    this.#room = new FairShare(limits.waiting);
  }

  get waiting(): number {
    return this.#scheduler.waiting;
  }

  get running(): number {
    return this.#scheduler.running;
  }

  /** Arrival of the oldest waiting request; `null` if there is none. */
  get waitingSinceMs(): number | null {
    // The map is in order of arrival.
    const [oldest] = this.#waiting.keys();
    return oldest?.arrivedAtMs ?? null;
  }

  enter(request: QueuedRequest, slots: number, signal: AbortSignal): Promise<Turn | DropReason> {
    const { sandboxId, priority } = request;
    const tenant = request.tenant ?? '';
    this.#scheduler.setSlots(slots);
    // Those that wait come first, and make room.
    this.#dispatch();
    const hold = this.#room.take(tenant, 1);
    if (hold === undefined) return Promise.resolve('full');
    const { promise, resolve } = Promise.withResolvers<Turn | DropReason>();
    const ticket = this.#scheduler.add(
      {
        tenant,
        sandbox: sandboxId,
        band: MODEL_PRIORITIES.indexOf(priority),
        cost: costOf(request.inputTokens, request.outputTokens),
      },
      this.#clock.now(),
    );
    const leave = (reason: DropReason): void => {
      this.#scheduler.remove(ticket);
      this.#waiting.get(ticket)?.(reason);
    };
    const onAbort = (): void => leave('cancelled');
    const stopTimer = this.#clock.after(this.#limits.waitMsMax, () => leave('timeout'));
    signal.addEventListener('abort', onAbort, { once: true });
    this.#waiting.set(ticket, (left) => {
      this.#waiting.delete(ticket);
      stopTimer();
      signal.removeEventListener('abort', onAbort);
      hold.release();
      resolve(left);
    });
    this.#dispatch();
    return promise;
  }

  #dispatch(): void {
    for (;;) {
      const ticket = this.#scheduler.next(this.#clock.now());
      if (ticket === undefined) return;
      this.#waiting.get(ticket)?.({
        charge: (input, output) => this.#scheduler.charge(ticket, costOf(input, output)),
        isWanted: () => this.waiting > 0,
        release: () => {
          this.#scheduler.remove(ticket);
          this.#dispatch();
        },
      });
    }
  }
}

/** At least 1: each request takes a slot for a while. */
const costOf = (inputTokens: number, outputTokens: number): number =>
  Math.max(1, INPUT_WEIGHT * inputTokens + OUTPUT_WEIGHT * outputTokens);
