/** A proof is a list of tries, each with the expected and the seen result. */
import { sleep } from '../src/base/clock.ts';
import type { CallOutcome, DnsOutcome } from './caller.ts';
import type { Arrival } from './map.ts';
import type { World } from './world.ts';

export interface Tried {
  readonly what: string;
  readonly expected: string;
  readonly seen: string;
  readonly ok: boolean;
}

export interface Proof {
  readonly name: string;
  /** Every try was as expected. */
  readonly holds: boolean;
  readonly tried: readonly Tried[];
}

/** A try that must be answered. */
export type Control = readonly [what: string, attempt: () => Promise<CallOutcome>];

export interface Forbidden {
  readonly what: string;
  readonly attempt: () => Promise<CallOutcome>;
  /** Recognizes the try among the arrivals, where it must not be. */
  readonly isArrival: (arrival: Arrival) => boolean;
}

export const SEEN_CHARACTERS_MAX = 90;
/** Content of any server of the world. */
const CONTENT = /page of|secret|hello/;

export class Notes {
  readonly #tried: Tried[] = [];

  proof(name: string): Proof {
    const tried = [...this.#tried];
    return { name, holds: tried.length > 0 && tried.every(({ ok }) => ok), tried };
  }

  add(each: Tried): void {
    this.#tried.push({ ...each, seen: each.seen.slice(0, SEEN_CHARACTERS_MAX) });
  }

  note(what: string, expected: string, seen: string, ok: boolean): void {
    this.add({ what, expected, seen, ok });
  }

  /** Adds a try whose seen text must equal the expected one. */
  same(what: string, expected: string, seen: string): void {
    this.note(what, expected, seen, seen === expected);
  }
}

export class Tries extends Notes {
  readonly #world: World;

  constructor(world: World) {
    super();
    this.#world = world;
  }

  /** Positive controls, without which "nothing arrived" would prove nothing. */
  async allowed(content: string, ...tries: readonly Control[]): Promise<void> {
    const outcomes = await Promise.all(tries.map(([, attempt]) => answered(attempt)));
    for (const [index, [what]] of tries.entries()) {
      const { outcome = 'nothing', text = '' } = outcomes[index] ?? {};
      const ok = outcome === 'answer' && text.includes(content);
      this.note(what, `"${content}"`, ok ? `"${content}"` : summary(outcome, text), ok);
    }
  }

  /** A control for frames that bypass the guest's kernel and get no answer. */
  async arrives(what: string, send: () => Promise<unknown>, is: Forbidden['isArrival']) {
    const arrivals = await this.#world.watch();
    await send();
    const arrived = await eventually(async () => (await arrivals()).some(is));
    this.note(what, 'it arrives', arrived ? 'it arrives' : 'nothing arrived', arrived);
  }

  /** Runs all tries at once: no content comes back, and nothing arrives. */
  async forbidden(tries: readonly Forbidden[]): Promise<void> {
    const arrivals = await this.#world.watch();
    const outcomes = await Promise.all(tries.map(({ attempt }) => attempt()));
    const fresh = await arrivals();
    for (const [index, { what, isArrival }] of tries.entries()) {
      const { outcome = 'nothing', text = '' } = outcomes[index] ?? {};
      const arrived = fresh.filter(isArrival).length;
      const seen = `${summary(outcome, text)}; ${arrived === 0 ? 'nothing' : arrived} arrived`;
      this.note(what, 'refused; nothing arrived', seen, arrived === 0 && !CONTENT.test(text));
    }
  }

  /** Queries to the resolver, answered with this code and these addresses. */
  async names(
    tries: readonly {
      readonly what: string;
      readonly attempt: () => Promise<DnsOutcome>;
      readonly code: number;
      readonly addresses?: readonly string[];
      /** A name that no other resolver may get. */
      readonly secret?: string;
    }[],
  ): Promise<void> {
    const arrivals = await this.#world.watch();
    const outcomes = await Promise.all(tries.map(({ attempt }) => attempt()));
    const fresh = await arrivals();
    for (const [index, { what, code, addresses = [], secret }] of tries.entries()) {
      const seen = outcomes[index];
      const told = `code ${seen?.code} ${seen?.addresses.join(' ') ?? ''}`.trim();
      const wanted = `code ${code} ${addresses.join(' ')}`.trim();
      const leaked = fresh.some(({ protocol, text }) => protocol === 'dns' && text === secret);
      const asked = secret === undefined ? '' : '; no other resolver asked';
      const leak = leaked ? '; another resolver was asked' : asked;
      this.note(what, `${wanted}${asked}`, `${told}${leak}`, told === wanted && !leaked);
    }
  }
}

function summary(outcome: string, text: string): string {
  const [line = ''] = text.split('\r\n');
  const plain = line.trim().replaceAll(/[^ -~]/g, '.');
  return outcome === 'answer' ? `answer "${plain}"` : outcome;
}

/** Silence counts after a short time, for the many tries that get no answer; a busy host may take longer to answer. */
const SILENCES_MAX = 12;

/** Repeats while there is silence: a control shows that there is a way, not how fast it is. */
async function answered(attempt: () => Promise<CallOutcome>): Promise<CallOutcome> {
  let last = await attempt();
  for (let silences = 1; last.outcome === 'silence' && silences < SILENCES_MAX; silences += 1) last = await attempt();
  return last;
}

const LOOK_MS = 20;
const LOOKS_MAX = 500;

/** Repeats for ten seconds: frames pass a thread of their own, which a busy host may run late. */
export async function eventually(isTrue: () => Promise<boolean>): Promise<boolean> {
  for (let looks = 0; looks < LOOKS_MAX; looks += 1) {
    if (await isTrue()) return true;
    await sleep(LOOK_MS);
  }
  return false;
}
