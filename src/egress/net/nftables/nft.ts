/**
 * Changes and reads the packet filter with `nft`, the only network program that NeuroVisor runs (io): through its
 * library in this process if the host has it, else through a child process per call. Both take the same text.
 */
import { type Clock, systemClock } from '../../../base/clock.ts';
import { type NftablesAnswer, runNftables } from '../../../sys/nftables.ts';
import { nftFailure, nftRefusal } from './failure.ts';
import { type NftObject, TABLE_FAMILY, TABLE_NAME } from './json.ts';
import { NftProcess } from './process.ts';

interface NftOptions {
  /** The command and its first arguments, e.g. to enter a network namespace. Default: `nft`. */
  readonly command?: readonly string[];
  /** Tried first. Default: the library of this host, unless a command is set. */
  readonly library?: NftLibrary;
  readonly clock?: Clock;
  /** Deadline of a transaction; the kernel applies it whole or not at all. */
  readonly runMsMax?: number;
}

/** @returns undefined if a child process must do it */
type NftLibrary = (commands: string) => Promise<NftablesAnswer | undefined>;

const RUN_MS_MAX = 60_000;
const noLibrary: NftLibrary = async () => undefined;

export class Nft {
  readonly #process: NftProcess;
  readonly #clock: Clock;
  readonly #runMsMax: number;
  readonly #library: NftLibrary;

  constructor(options: NftOptions = {}) {
    const { command, clock = systemClock, runMsMax = RUN_MS_MAX } = options;
    const { library = command === undefined ? runNftables : noLibrary } = options;
    this.#process = new NftProcess({ command: command ?? ['nft'], clock, runMsMax });
    this.#clock = clock;
    this.#runMsMax = runMsMax;
    this.#library = library;
  }

  /** Applies all commands or none. @throws NetError `nft_missing`, `nft_not_permitted`, `nft_refused`, `nft_failed` */
  async apply(commands: readonly NftObject[]): Promise<void> {
    if (commands.length === 0) return;
    const text = JSON.stringify({ nftables: commands });
    if (await this.#byLibrary(text, 'change')) return;
    await this.#process.run(['-j', '-f', '-'], text, 'change');
  }

  /**
   * Everything in our table; undefined if there is none.
   * @throws NetError `nft_missing`, `nft_not_permitted`, `nft_refused`, `nft_failed`
   */
  async listTable(): Promise<readonly NftObject[] | undefined> {
    const tables = await this.#list(['tables', TABLE_FAMILY]);
    const ours = tables.some((object) => {
      const table = object['table'];
      return typeof table === 'object' && table !== null && 'name' in table && table.name === TABLE_NAME;
    });
    return ours ? this.#list(['table', TABLE_FAMILY, TABLE_NAME]) : undefined;
  }

  /**
   * Counters of all tables; empty if there are none.
   * @throws NetError `nft_missing`, `nft_not_permitted`, `nft_refused`, `nft_failed`
   */
  listCounters(): Promise<readonly NftObject[]> {
    return this.#list(['counters']);
  }

  /** Chains of all tables, without their rules. @throws NetError as `listCounters` */
  listChains(): Promise<readonly NftObject[]> {
    return this.#list(['chains']);
  }

  /** E.g. `nftables v1.0.6 (Lester Gooch #5)`. @throws NetError `nft_missing`, `nft_failed` */
  async version(): Promise<string> {
    return (await this.#process.run(['--version'], '', 'read')).trim();
  }

  /**
   * Counters and quotas of our table, for `readTraffic`.
   * @throws NetError as `listTable`; `nft_refused` if there is no table
   */
  async listTraffic(): Promise<readonly NftObject[]> {
    const table = ['table', TABLE_FAMILY, TABLE_NAME];
    return [...(await this.#list(['counters', ...table])), ...(await this.#list(['quotas', ...table]))];
  }

  async #list(what: readonly string[]): Promise<readonly NftObject[]> {
    const text =
      (await this.#byLibrary(['list', ...what].join(' '), 'read'))?.output ??
      (await this.#process.run(['-j', 'list', ...what], '', 'read'));
    try {
      const parsed: unknown = JSON.parse(text);
      if (typeof parsed === 'object' && parsed !== null && 'nftables' in parsed) {
        if (Array.isArray(parsed.nftables)) return parsed.nftables as NftObject[];
      }
    } catch (error) {
      throw nftFailure('read', error);
    }
    throw nftFailure('read', new Error('no list of objects in the output'));
  }

  /** @returns undefined if a child process must do it */
  async #byLibrary(text: string, verb: string): Promise<NftablesAnswer | undefined> {
    const late = Promise.withResolvers<never>();
    const stopWaiting = this.#clock.after(this.#runMsMax, () =>
      late.reject(nftFailure(verb, new Error(`no end within ${this.#runMsMax} ms`))),
    );
    try {
      const answer = await Promise.race([this.#library(text), late.promise]);
      if (answer?.ok === false) throw nftRefusal(verb, answer.errors);
      return answer;
    } finally {
      stopWaiting();
    }
  }
}
