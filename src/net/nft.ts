/** Runs `nft`, the only network command that is ever run: arguments are an array, data goes in by stdin. */
import { type ChildProcess, spawn } from 'node:child_process';
import { writeSync } from 'node:fs';
import type { Readable } from 'node:stream';
import { type Clock, systemClock } from '../base/clock.ts';
import { errorCode } from '../base/errors.ts';
import { searchPath } from '../base/search-path.ts';
import { closeFd, createMemFd } from '../sys/fd.ts';
import { NetError } from './errors.ts';
import { type NftObject, TABLE_FAMILY, TABLE_NAME } from './nft-json.ts';

export interface NftOptions {
  /** The command and its first arguments, e.g. to enter a network namespace. */
  readonly command?: readonly string[];
  readonly clock?: Clock;
  /** A transaction that takes longer is given up; the kernel applies it whole or not at all. */
  readonly runMsMax?: number;
}

const RUN_MS_MAX = 60_000;
/** A table of 1,000 sandboxes is about 25 MB. */
const OUTPUT_BYTES_MAX = 128 * 1024 * 1024;
const ERROR_BYTES_MAX = 64 * 1024;
/** Of `nft`'s text in an error; it repeats itself for each object that misses another. */
const ERROR_LINES_MAX = 6;
const ERROR_LINE_CHARACTERS_MAX = 300;

export class Nft {
  readonly #command: readonly [string, ...string[]];
  readonly #clock: Clock;
  readonly #runMsMax: number;

  constructor({ command = ['nft'], clock = systemClock, runMsMax = RUN_MS_MAX }: NftOptions = {}) {
    const [program = 'nft', ...first] = command;
    this.#command = [program, ...first];
    this.#clock = clock;
    this.#runMsMax = runMsMax;
  }

  /**
   * All of the commands or none of them.
   * @throws NetError `nft_missing`, `nft_not_permitted`, `nft_refused`, `nft_failed`
   */
  async apply(commands: readonly NftObject[]): Promise<void> {
    if (commands.length === 0) return;
    await this.#run(['-j', '-f', '-'], JSON.stringify({ nftables: commands }), 'change');
  }

  /**
   * Everything in our table, or undefined where there is none.
   * @throws NetError `nft_missing`, `nft_not_permitted`, `nft_refused`, `nft_failed`
   */
  async listTable(): Promise<readonly NftObject[] | undefined> {
    const tables = await this.#list(['tables', TABLE_FAMILY]);
    const ours = tables.some((object) => {
      const table = object['table'];
      return (
        typeof table === 'object' && table !== null && 'name' in table && table.name === TABLE_NAME
      );
    });
    return ours ? this.#list(['table', TABLE_FAMILY, TABLE_NAME]) : undefined;
  }

  /**
   * The counters of every table; an empty list where there is none.
   * @throws NetError `nft_missing`, `nft_not_permitted`, `nft_refused`, `nft_failed`
   */
  listCounters(): Promise<readonly NftObject[]> {
    return this.#list(['counters']);
  }

  /**
   * The quotas of every table.
   * @throws NetError as `listCounters`
   */
  listQuotas(): Promise<readonly NftObject[]> {
    return this.#list(['quotas']);
  }

  /**
   * The chains of every table, without their rules.
   * @throws NetError as `listCounters`
   */
  listChains(): Promise<readonly NftObject[]> {
    return this.#list(['chains']);
  }

  /**
   * As it tells it itself: `nftables v1.0.6 (Lester Gooch #5)`.
   * @throws NetError `nft_missing`, `nft_failed`
   */
  async version(): Promise<string> {
    return (await this.#run(['--version'], '', 'read')).trim();
  }

  /**
   * Counters and quotas of our table, for `readTraffic`.
   * @throws NetError as `listTable`; `nft_refused` where there is no table
   */
  async listTraffic(): Promise<readonly NftObject[]> {
    const table = ['table', TABLE_FAMILY, TABLE_NAME];
    return [
      ...(await this.#list(['counters', ...table])),
      ...(await this.#list(['quotas', ...table])),
    ];
  }

  async #list(what: readonly string[]): Promise<readonly NftObject[]> {
    const text = await this.#run(['-j', 'list', ...what], '', 'read');
    try {
      const parsed: unknown = JSON.parse(text);
      if (typeof parsed === 'object' && parsed !== null && 'nftables' in parsed) {
        if (Array.isArray(parsed.nftables)) return parsed.nftables as NftObject[];
      }
    } catch (error) {
      throw failed('read', error);
    }
    throw failed('read', new Error('it printed no list of objects'));
  }

  #run(args: readonly string[], input: string, verb: string): Promise<string> {
    const [program] = this.#command;
    return new Promise((resolve, reject) => {
      const child = this.#start(args, input, verb);
      let gaveUp: Error | undefined;
      const giveUp = (why: string): void => {
        gaveUp ??= new Error(why);
        child.kill('SIGKILL');
      };
      const stopWaiting = this.#clock.after(this.#runMsMax, () =>
        giveUp(`it did not end within ${this.#runMsMax} ms`),
      );
      const output = collect(child.stdout, OUTPUT_BYTES_MAX, () => giveUp('it printed too much'));
      const errors = collect(child.stderr, ERROR_BYTES_MAX, () => undefined);
      child.once('error', (error) => {
        stopWaiting();
        reject(startFailure(program, verb, error));
      });
      child.once('close', (code, killedBy) => {
        stopWaiting();
        if (code === 0) resolve(output());
        else if (gaveUp !== undefined) reject(failed(verb, gaveUp));
        else if (code === null) reject(failed(verb, new Error(`it was ended by ${killedBy}`)));
        else reject(refused(verb, errors()));
      });
    });
  }

  /** Most failures of a start come as an event; of some, as that memory is short, `spawn` throws. */
  #start(args: readonly string[], input: string, verb: string): ChildProcess {
    const [program, ...first] = this.#command;
    const stdin = fileOf(input);
    try {
      return spawn(program, [...first, ...args], {
        env: { PATH: searchPath(process.env['PATH']), LC_ALL: 'C' },
        stdio: [stdin, 'pipe', 'pipe'],
      });
    } catch (error) {
      throw failed(verb, error);
    } finally {
      closeFd(stdin);
    }
  }
}

/**
 * A file in memory. `nft -f -` opens /dev/stdin anew, which is not possible with the socket that Node makes for
 * a child's stdin.
 */
function fileOf(text: string): number {
  const bytes = Buffer.from(text);
  const fd = createMemFd('nft-input', bytes.length);
  try {
    for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at, bytes.length - at, at);
    return fd;
  } catch (error) {
    closeFd(fd);
    throw error;
  }
}

/** Keeps the first `bytesMax`, and says once when there were more. */
function collect(stream: Readable | null, bytesMax: number, onMore: () => void): () => string {
  const chunks: Buffer[] = [];
  let bytes = 0;
  stream?.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes <= bytesMax) chunks.push(chunk);
    else onMore();
  });
  return () => Buffer.concat(chunks).toString();
}

function startFailure(program: string, verb: string, error: Error): NetError {
  if (errorCode(error) !== 'ENOENT') return failed(verb, error);
  return new NetError('nft_missing', `${verb} the packet filter: ${program} is not installed`, {
    cause: error,
    remedy: 'Install it: apt install nftables.',
  });
}

/** Its exit status is 1 for every failure, so that only its text tells that rights are missing. */
function refused(verb: string, text: string): NetError {
  const lines = text.split('\n').filter((line) => line.trim() !== '');
  const short = lines.slice(0, ERROR_LINES_MAX).map((l) => l.slice(0, ERROR_LINE_CHARACTERS_MAX));
  const cause = new Error(short.length === 0 ? 'it printed nothing' : short.join('\n'));
  if (/Operation not permitted|Permission denied/.test(text)) {
    return new NetError('nft_not_permitted', `${verb} the packet filter: not permitted`, {
      cause,
      remedy:
        'Run NeuroVisor as root or with CAP_NET_ADMIN, or start the sandbox without a network.',
    });
  }
  return new NetError('nft_refused', `${verb} the packet filter: nft refused`, { cause });
}

function failed(verb: string, cause: unknown): NetError {
  return new NetError('nft_failed', `${verb} the packet filter: nft failed`, { cause });
}
