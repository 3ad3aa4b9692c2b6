/**
 * Latency of sandboxes' packets, measured by a daemon at all times: each TAP gets probes with its card and loses them
 * with it.
 *
 *     a lease ─► watch ─► TAP: bpf/latency.bpf.c ─► per sandbox: `of`
 *                                              └──► sums, including former cards: `metrics`
 *
 * Loaded in the background when the first sandbox gets a card. If probes are not available, that is logged once.
 */
import { describeError } from '../../base/errors.ts';
import { tryOr } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import { gauge, histogramSamples, type Metric, totalBy } from '../../base/metrics.ts';
import { toPrometheus } from '../../machine/observe/histogram.ts';
import { PATHS, type Path, sumTimes, type TapLatency, type Times } from '../../machine/observe/latency.ts';
import type { TapProbe } from '../../machine/observe/probes.ts';
import { OpenedOnce } from './opened-once.ts';

export interface Probes extends Disposable {
  /** Returns undefined if the interface is gone. @throws ObserveError, LinkError */
  watchCard(interfaceName: string): Promise<TapProbe | undefined>;
  /** Measures the link by which packets leave this host, if any. @throws ObserveError, LinkError */
  watchUplink(): Promise<void>;
}

export interface PacketLatencyParts {
  /** `null` if disabled. @throws ObserveError when probes are not available */
  readonly open: (() => Promise<Probes>) | null;
  readonly log: Log;
}

interface Card {
  readonly sandboxId: string;
  readonly interfaceName: string;
  /** Undefined if not measured, or not yet. */
  probe: TapProbe | undefined;
}

export class PacketLatency {
  readonly #parts: PacketLatencyParts;
  readonly #cards = new Set<Card>();
  #ended: Readonly<Record<Path, Times>> = { guest: NONE, peer: NONE, forward: NONE };
  /** By interface name: the next user of a name waits until the previous one has released it. */
  readonly #attaching = new Map<string, Promise<void>>();
  readonly #probes: OpenedOnce<Probes>;
  readonly #logged = new Set<string>();

  constructor(parts: PacketLatencyParts) {
    this.#parts = parts;
    this.#probes = new OpenedOnce({
      open: parts.open,
      opened: (probes) => {
        for (const card of this.#cards) this.#begin(card, probes);
      },
      failed: (error) => this.#logOnce('packet latency is not measured', error),
    });
  }

  /** Returns a function that stops it. Never throws. */
  watch(sandboxId: string, interfaceName: string): () => void {
    const card: Card = { sandboxId, interfaceName, probe: undefined };
    this.#cards.add(card);
    const probes = this.#probes.value;
    if (probes === undefined) void this.#probes.start();
    else this.#begin(card, probes);
    return () => this.#drop(card);
  }

  /** The latency of a sandbox's current card; undefined if not measured. */
  of(sandboxId: string): TapLatency | undefined {
    return [...this.#cards]
      .filter((card) => card.sandboxId === sandboxId)
      .map(({ probe }) => (probe === undefined ? undefined : read(probe)))
      .find((latency) => latency !== undefined);
  }

  get isOpen(): boolean {
    return this.#probes.value !== undefined;
  }

  async settled(): Promise<void> {
    await this.#probes.settled();
    await Promise.all(this.#attaching.values());
  }

  metrics(): readonly Metric[] {
    const name = 'neurovisor_network_latency_seconds';
    const help = 'Latency of guests’ packets: peer, guest, forward.';
    return [
      {
        type: 'histogram',
        name,
        help,
        unit: 'seconds',
        labels: ['path'],
        samples: () => {
          const sums = this.#sums();
          return PATHS.flatMap((path) => histogramSamples({ path }, toPrometheus(sums[path])));
        },
      },
      totalBy(
        'neurovisor_network_latency_unmeasured_total',
        'Packets without a latency: repeated, too_many of one guest at once, no_room.',
        ['reason'],
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
      gauge(
        'neurovisor_network_latency_cards',
        'Network cards whose latency is measured.',
        () => [...this.#cards].filter(({ probe }) => probe !== undefined).length,
      ),
    ];
  }

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
      // The card may be gone by now.
      if (this.#cards.has(card)) card.probe = probe;
      else probe?.[Symbol.dispose]();
    } catch (error) {
      // A failure counts only while the card is here: it may be gone or lent by now.
      if (this.#cards.has(card)) this.#logOnce('packets of a sandbox are not measured', error);
    }
    try {
      await probes.watchUplink();
    } catch (error) {
      this.#logOnce('the uplink is not measured', error);
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
      this.#logOnce('could not remove the probes of a sandbox', error);
    }
  }

  #sums(): Readonly<Record<Path, Times>> {
    const live = [...this.#cards].flatMap(({ probe }) => {
      const latency = probe === undefined ? undefined : read(probe);
      return latency === undefined ? [] : [latency.paths];
    });
    return sumPaths([this.#ended, ...live]);
  }

  /** Logs each kind once: a capability that this host lacks is missing for every sandbox. */
  #logOnce(what: string, error: unknown): void {
    if (this.#logged.has(what)) return;
    this.#logged.add(what);
    this.#parts.log.warn(what, { reason: describeError(error) });
  }
}

const NONE = sumTimes([]);

function sumPaths(all: readonly Readonly<Record<Path, Times>>[]): Readonly<Record<Path, Times>> {
  const sum = (path: Path): Times => sumTimes(all.map((paths) => paths[path]));
  return { guest: sum('guest'), peer: sum('peer'), forward: sum('forward') };
}

function read(probe: TapProbe): TapLatency | undefined {
  return tryOr(undefined, 'the probes are ending', () => probe.read());
}
