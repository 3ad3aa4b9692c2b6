/**
 * Decides which waiting request gets the next slot of an upstream, by virtual token counters on two levels, as in
 * "Fairness in Serving Large Language Models" (arXiv 2401.00588). Pure.
 *
 *     tenant with the smallest counter ──► its best band (aged) ──► its sandbox with the smallest counter ──► the oldest
 *
 * A counter sums the cost of dispatched requests: an estimate at dispatch, the true cost at the end. So tenants that
 * always wait, and sandboxes of a tenant in one band, get the same service, up to what the slots hold at a time, however
 * many requests they send. Pausing saves no credit: a flow that waits again is lifted to the smallest counter that waits.
 *
 * Bands order the requests of a tenant alone, so no tenant gains by asking for a better one. They are strict, but each
 * `agingMs` of waiting raises a request by one band, and with it all requests of its band and of better ones: a flow
 * whose requests wait for each other must not overtake others by their age. While a better band is served, counters of
 * worse ones rise along, so an aged request competes without credit for the past.
 */
import { assert } from '../../../base/assert.ts';

export interface Arrival {
  readonly tenant: string;
  readonly sandbox: string;
  /** 0 is the best. */
  readonly band: number;
  /** Estimated cost, charged at dispatch. > 0. */
  readonly cost: number;
}

export interface Ticket extends Arrival {
  readonly arrivedAtMs: number;
}

/** The account of a tenant or sandbox on its level. */
interface Flow {
  counter: number;
  /** Part of `counter` that belongs to running requests, whose true cost is not known yet. */
  unsettled: number;
  waiting: number;
  running: number;
}

interface Sandbox extends Flow {
  readonly line: Set<Item>;
}

interface Tenant extends Flow {
  readonly sandboxes: Level<Sandbox>;
}

interface Item {
  readonly ticket: Ticket;
  readonly tenant: Tenant;
  readonly sandbox: Sandbox;
  charged: number | undefined;
}

const NEW_FLOW: Flow = { counter: 0, unsettled: 0, waiting: 0, running: 0 };
/** Limit per level of idle flows whose counters are kept. */
const IDLE_FLOWS_MAX = 1024;

export class TokenScheduler {
  readonly #agingMs: number;
  readonly #tenants = new Level<Tenant>(() => ({
    ...NEW_FLOW,
    sandboxes: new Level<Sandbox>(() => ({ ...NEW_FLOW, line: new Set() })),
  }));
  readonly #items = new Map<Ticket, Item>();
  #slots: number;
  #running = 0;

  /** @param slots number of requests that may run at a time, > 0 */
  constructor(options: { readonly slots: number; readonly agingMs: number }) {
    this.#slots = options.slots;
    this.#agingMs = options.agingMs;
  }

  get running(): number {
    return this.#running;
  }

  get waiting(): number {
    return this.#items.size - this.#running;
  }

  /** Reducing the slots ends no request. */
  setSlots(slots: number): void {
    this.#slots = slots;
  }

  add(arrival: Arrival, nowMs: number): Ticket {
    const ticket = { ...arrival, arrivedAtMs: nowMs };
    const tenant = this.#tenants.join(arrival.tenant);
    const sandbox = tenant.sandboxes.join(arrival.sandbox);
    const item: Item = { ticket, tenant, sandbox, charged: undefined };
    sandbox.line.add(item);
    for (const flow of [tenant, sandbox]) flow.waiting += 1;
    this.#items.set(ticket, item);
    return ticket;
  }

  /** Dispatches the next request to a slot. Undefined if no slot is free or no request waits. */
  next(nowMs: number): Ticket | undefined {
    if (this.#running >= this.#slots || this.waiting === 0) return undefined;
    const tenant = this.#tenants.take(() => 0);
    const bands = this.#agedBands(tenant, nowMs);
    const sandbox = tenant.sandboxes.take(({ line }) => {
      const [first] = line;
      return bands[first?.ticket.band ?? 0] ?? 0;
    });
    const [item] = sandbox.line;
    assert(item !== undefined, 'a flow that waits has a request');
    sandbox.line.delete(item);
    for (const flow of [tenant, sandbox]) {
      flow.waiting -= 1;
      flow.running += 1;
    }
    this.#running += 1;
    item.charged = 0;
    this.charge(item.ticket, item.ticket.cost);
    return item.ticket;
  }

  /** Replaces the cost so far of a running request. Does nothing for other requests. */
  charge(ticket: Ticket, cost: number): void {
    const item = this.#items.get(ticket);
    if (item?.charged === undefined) return;
    const more = cost - item.charged;
    item.charged = cost;
    for (const flow of [item.tenant, item.sandbox]) {
      flow.counter += more;
      flow.unsettled += more;
    }
  }

  /** Removes a request that has ended or no longer waits. Idempotent. */
  remove(ticket: Ticket): void {
    const item = this.#items.get(ticket);
    if (item === undefined) return;
    this.#items.delete(ticket);
    const { tenant, sandbox } = item;
    const state = item.charged === undefined ? 'waiting' : 'running';
    if (state === 'running') this.#running -= 1;
    else sandbox.line.delete(item);
    for (const flow of [tenant, sandbox]) {
      flow[state] -= 1;
      flow.unsettled -= item.charged ?? 0;
    }
    tenant.sandboxes.leave(ticket.sandbox);
    this.#tenants.leave(ticket.tenant);
  }

  /** The effective band of each band of the tenant, by its index: the best that has aged in it or in a worse one. */
  #agedBands({ sandboxes }: Tenant, nowMs: number): readonly number[] {
    const bands: number[] = [];
    for (const { line } of sandboxes.all()) {
      const [first] = line;
      if (first === undefined) continue;
      const { band, arrivedAtMs } = first.ticket;
      const aged = Math.max(0, band - Math.floor((nowMs - arrivedAtMs) / this.#agingMs));
      for (let better = 0; better <= band; better += 1) bands[better] = Math.min(bands[better] ?? better, aged);
    }
    return bands;
  }
}

/** The flows of one level. When all are idle, their counters start again at 0. */
class Level<F extends Flow> {
  readonly #make: () => F;
  readonly #flows = new Map<string, F>();
  #active = 0;
  /** Counter of the last flow taken, before it was charged. */
  #passed = 0;

  constructor(make: () => F) {
    this.#make = make;
  }

  join(name: string): F {
    let flow = this.#flows.get(name);
    if (flow === undefined) {
      flow = this.#make();
      this.#flows.set(name, flow);
    }
    if (flow.waiting + flow.running === 0) this.#active += 1;
    if (flow.waiting === 0) flow.counter = Math.max(flow.counter, this.#floor());
    return flow;
  }

  leave(name: string): void {
    const flow = this.#flows.get(name);
    if (flow === undefined || flow.waiting + flow.running > 0) return;
    this.#active -= 1;
    // The order in the map is that of becoming idle.
    this.#flows.delete(name);
    if (this.#active === 0) {
      this.#flows.clear();
      this.#passed = 0;
    } else if (flow.counter > this.#floor()) {
      this.#flows.set(name, flow);
      this.#forget();
    }
  }

  all(): Iterable<F> {
    return this.#flows.values();
  }

  /** The waiting flow with the smallest counter in the best band. Flows of worse bands gain no credit by waiting. */
  take(bandOf: (flow: F) => number): F {
    const waiting = [...this.#flows.values()].filter((flow) => flow.waiting > 0);
    let best = Number.POSITIVE_INFINITY;
    for (const flow of waiting) best = Math.min(best, bandOf(flow));
    let least: F | undefined;
    for (const flow of waiting) {
      if (bandOf(flow) === best && (least === undefined || flow.counter < least.counter)) least = flow;
    }
    assert(least !== undefined, 'a flow waits');
    const { counter } = least;
    for (const flow of waiting) {
      if (bandOf(flow) > best) flow.counter = Math.max(flow.counter, counter);
    }
    this.#passed = Math.max(this.#passed, counter);
    return least;
  }

  /** Excludes estimates: a new flow must not wait until others have worked off what they never used. */
  #floor(): number {
    let least = Number.POSITIVE_INFINITY;
    for (const flow of this.#flows.values())
      if (flow.waiting > 0) least = Math.min(least, flow.counter - flow.unsettled);
    return least === Number.POSITIVE_INFINITY ? this.#passed : least;
  }

  #forget(): void {
    if (this.#flows.size - this.#active <= IDLE_FLOWS_MAX) return;
    for (const [name, flow] of this.#flows) {
      if (flow.waiting + flow.running > 0) continue;
      this.#flows.delete(name);
      return;
    }
  }
}
