/**
 * How long the packets of sandboxes take, measured all the time by a daemon: probes are put on each TAP when a
 * sandbox gets its card and taken away with it.
 *
 *     a lease ─► watch ─► TAP: bpf/latency.bpf.c ─► per sandbox: `of`
 *                                              └──► sums, those of cards that have gone included: `metrics`
 *
 * Loaded when the first sandbox has a card, while that starts: nobody waits for it. Where it can't be had, that
 * is told once and all else goes on.
 */
import { describeError } from '../base/errors.ts';
import { ignore } from '../base/ignore.ts';
import type { Log } from '../base/log.ts';
import { collected, histogramSamples, type Metric, single } from '../base/metrics.ts';
import { toPrometheus } from '../observe/histogram.ts';
import { PATHS, type Path, sumTimes, type TapLatency, type Times } from '../observe/latency.ts';
import type { TapProbe } from '../observe/probes.ts';
import { OpenedOnce } from './opened-once.ts';

/** Programs in the kernel. */
export interface Probes extends Disposable {
  /** @returns undefined: its interface has gone. @throws ObserveError, LinkError */
  watchCard(interfaceName: string): Promise<TapProbe | undefined>;
  /** By which packets leave this host, if there is one. @throws ObserveError, LinkError */
  watchUplink(): Promise<void>;
}

export interface PacketLatencyParts {
  /** Null: nothing is to be measured. @throws ObserveError where it can't be had */
  readonly open: (() => Promise<Probes>) | null;
  readonly log: Log;
}

interface Card {
  readonly sandboxId: string;
  readonly interfaceName: string;
  /** Undefined: not measured, or not yet. */
  probe: TapProbe | undefined;
}

export class PacketLatency {
  readonly #parts: PacketLatencyParts;
  readonly #cards = new Set<Card>();
  #ended: Readonly<Record<Path, Times>> = { guest: NONE, peer: NONE, forward: NONE };
  /** By the name of the interface: who comes next waits until the one before has let go of it. */
  readonly #attaching = new Map<string, Promise<void>>();
  readonly #probes: OpenedOnce<Probes>;
  #told = new Set<string>();

  constructor(parts: PacketLatencyParts) {
    this.#parts = parts;
    this.#probes = new OpenedOnce({
      open: parts.open,
      opened: (probes) => {
        for (const card of this.#cards) this.#begin(card, probes);
      },
      failed: (error) => this.#tell('latencies of packets are not measured', error),
    });
  }

  /** From now on until what is returned is called; never throws. */
  watch(sandboxId: string, interfaceName: string): () => void {
    const card: Card = { sandboxId, interfaceName, probe: undefined };
    this.#cards.add(card);
    const probes = this.#probes.value;
    if (probes === undefined) void this.#probes.start();
    else this.#begin(card, probes);
    return () => this.#drop(card);
  }

  /** Of the card that a sandbox has now; undefined: it is not measured. */
  of(sandboxId: string): TapLatency | undefined {
    return [...this.#cards]
      .filter((card) => card.sandboxId === sandboxId)
      .map(({ probe }) => (probe === undefined ? undefined : read(probe)))
      .find((latency) => latency !== undefined);
  }

  /** Whether cards are measured, or would be. */
  get isOpen(): boolean {
    return this.#probes.value !== undefined;
  }

  /** Resolves when every card is measured that can be. */
  async settled(): Promise<void> {
    await this.#probes.settled();
    await Promise.all(this.#attaching.values());
  }

  metrics(): readonly Metric[] {
    const name = 'neurovisor_network_latency_seconds';
    const help = 'Times of packets of guests, measured in the kernel: peer, guest, forward.';
    return [
      {
        ...{ type: 'histogram', name, help, unit: 'seconds', labels: ['path'] },
        samples: () => {
          const sums = this.#sums();
          return PATHS.flatMap((path) => histogramSamples({ path }, toPrometheus(sums[path])));
        },
      },
      collected(
        'counter',
        {
          name: 'neurovisor_network_latency_unmeasured_total',
          help: 'Packets of guests without a time: repeated, too many of one guest at once, no room for them.',
          unit: null,
          labels: ['reason'],
        },
        () => {
          const sums = Object.values(this.#sums());
          const of = (key: 'repeated' | 'skipped' | 'failed'): number =>
            sums.reduce((sum, times) => sum + times[key], 0);
          return [
            [{ reason: 'repeated' }, of('repeated')],
            [{ reason: 'too_many' }, of('skipped')],
            [{ reason: 'no_room' }, of('failed')],
          ];
        },
      ),
      single(
        'gauge',
        {
          name: 'neurovisor_network_latency_cards',
          help: 'Network cards of guests that are measured.',
          unit: null,
        },
        () => [...this.#cards].filter(({ probe }) => probe !== undefined).length,
      ),
    ];
  }

  /** Idempotent. */
  async close(): Promise<void> {
    this.#probes.stop();
    await this.settled();
    for (const card of [...this.#cards]) this.#drop(card);
    this.#probes[Symbol.dispose]();
  }

  #begin(card: Card, probes: Probes): void {
    const { interfaceName } = card;
    const before = this.#attaching.get(interfaceName) ?? Promise.resolve();
    const attaching = before
      .then(() => this.#attach(card, probes))
      .finally(() => {
        if (this.#attaching.get(interfaceName) === attaching) this.#attaching.delete(interfaceName);
      });
    this.#attaching.set(interfaceName, attaching);
  }

  /** Never rejects. */
  async #attach(card: Card, probes: Probes): Promise<void> {
    if (!this.#cards.has(card)) return;
    try {
      const probe = await probes.watchCard(card.interfaceName);
      // It may have gone meanwhile.
      if (this.#cards.has(card)) card.probe = probe;
      else probe?.[Symbol.dispose]();
    } catch (error) {
      // One that has gone, or been lent, meanwhile fails as it likes.
      if (this.#cards.has(card)) this.#tell('packets of a sandbox are not measured', error);
    }
    try {
      await probes.watchUplink();
    } catch (error) {
      this.#tell('when packets leave this host is not measured', error);
    }
  }

  #drop(card: Card): void {
    const { probe } = card;
    if (!this.#cards.delete(card) || probe === undefined) return;
    try {
      probe[Symbol.dispose]();
      const { paths } = probe.read();
      this.#ended = sumPaths([this.#ended, paths]);
    } catch (error) {
      this.#tell('stop to measure the packets of a sandbox', error);
    }
  }

  #sums(): Readonly<Record<Path, Times>> {
    const live = [...this.#cards].flatMap(({ probe }) => {
      const latency = probe === undefined ? undefined : read(probe);
      return latency === undefined ? [] : [latency.paths];
    });
    return sumPaths([this.#ended, ...live]);
  }

  /** Each kind once: a host that lacks something lacks it for every sandbox. */
  #tell(what: string, error: unknown): void {
    if (this.#told.has(what)) return;
    this.#told.add(what);
    this.#parts.log.warn(what, { reason: describeError(error) });
  }
}

const NONE = sumTimes([]);

function sumPaths(all: readonly Readonly<Record<Path, Times>>[]): Readonly<Record<Path, Times>> {
  const sum = (path: Path): Times => sumTimes(all.map((paths) => paths[path]));
  return { guest: sum('guest'), peer: sum('peer'), forward: sum('forward') };
}

function read(probe: TapProbe): TapLatency | undefined {
  try {
    return probe.read();
  } catch (error) {
    ignore(error, 'its probes end just now');
    return undefined;
  }
}
