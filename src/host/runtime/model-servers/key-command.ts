/** Keys printed by a program: a keyring, a password manager, or a client of a service whose keys last an hour (I/O). */
import { execFile } from 'node:child_process';
import type { Clock } from '../../../base/clock.ts';
import { describeError, errorCode } from '../../../base/errors.ts';
import { ignore } from '../../../base/ignore.ts';
import type { Log } from '../../../base/log.ts';
import { BridgeError } from '../../../inference/bridge/errors.ts';
import { isKey } from './models-file.ts';

/** The program runs again after this time, since keys may last only an hour. Requests do not wait for it … */
const FRESH_MS = 5 * 60_000;
/** … unless there was no request for this time. */
const USABLE_MS = 10 * 60_000;
/** Requests in this time after a failure fail likewise: each try may ask a person to confirm. */
const FAILED_MS = 5_000;
/** Minimum time between two runs for a key that the server rejects. */
const DENIED_MS = 60_000;
/** A person may have to confirm. */
const ANSWER_MS_MAX = 60_000;
const OUTPUT_BYTES_MAX = 16 * 1024;

export interface KeyCommandOptions {
  /** Program and arguments, without a shell. */
  readonly argv: readonly string[];
  /** Name of the key's upstream, for messages. */
  readonly upstream: string;
  /** Base directory for a relative program or file in the arguments. */
  readonly dir: string;
  readonly clock: Clock;
  readonly log: Log;
}

export class KeyCommand {
  readonly #options: KeyCommandOptions;
  #known: { readonly key: string; readonly atMs: number } | undefined;
  #failed: { readonly error: unknown; readonly atMs: number } | undefined;
  #asking: Promise<string> | undefined;
  #deniedAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: KeyCommandOptions) {
    this.#options = options;
  }

  /**
   * Concurrent requests run the program once. @throws BridgeError `upstream_unreachable` if the program has never
   * printed a key
   */
  async key(): Promise<string> {
    const nowMs = this.#options.clock.now();
    const ageMs = nowMs - (this.#known?.atMs ?? Number.NEGATIVE_INFINITY);
    if (this.#known !== undefined && ageMs < FRESH_MS) return this.#known.key;
    if (this.#failed !== undefined && nowMs - this.#failed.atMs < FAILED_MS) throw this.#failed.error;
    this.#asking ??= this.#ask().finally(() => {
      this.#asking = undefined;
    });
    if (this.#known === undefined || ageMs >= USABLE_MS) return await this.#asking;
    this.#asking.catch((error: unknown) => ignore(error, 'a key that is known never fails'));
    return this.#known.key;
  }

  /** Call when the server has rejected the key: if it is still the last one, the next request waits for another. */
  deny(key: string): void {
    const nowMs = this.#options.clock.now();
    if (this.#known?.key !== key || nowMs - this.#deniedAtMs < DENIED_MS) return;
    this.#deniedAtMs = nowMs;
    this.#known = { key, atMs: nowMs - USABLE_MS };
  }

  async #ask(): Promise<string> {
    const { clock, log, upstream } = this.#options;
    try {
      const key = await this.#run();
      this.#known = { key, atMs: clock.now() };
    } catch (error) {
      if (this.#known === undefined) {
        this.#failed = { error, atMs: clock.now() };
        throw error;
      }
      // The old key may still be good; the model server decides that.
      log.warn('a key was not told again; the last one is used', { upstream, error: describeError(error) });
      this.#known = { ...this.#known, atMs: clock.now() };
    }
    return this.#known.key;
  }

  #run(): Promise<string> {
    const { argv, upstream, dir } = this.#options;
    const [program = '', ...args] = argv;
    const options = { cwd: dir, timeout: ANSWER_MS_MAX, killSignal: 'SIGKILL', maxBuffer: OUTPUT_BYTES_MAX } as const;
    return new Promise((resolve, reject) => {
      execFile(program, args, options, (error, stdout) => {
        const key = stdout.trim();
        if (error === null && isKey(key)) {
          resolve(key);
          return;
        }
        // Neither the output nor the error's message, which has the arguments: both may contain the key.
        const attempted = `get the key of ${upstream}: ${program} ${whyNot(error)}`;
        const remedy = 'run the command of `key` in models.toml by hand';
        reject(new BridgeError('upstream_unreachable', attempted, { remedy }));
      });
    });
  }
}

function whyNot(error: (Error & { killed?: boolean; code?: unknown }) | null): string {
  if (error === null) return 'did not print one key';
  if (errorCode(error) === 'ENOENT') return 'does not exist';
  if (errorCode(error) === 'ERR_CHILD_PROCESS_STDIO_MAXBUFFER') return 'printed too much';
  if (error.killed === true) return `did not answer within ${ANSWER_MS_MAX / 1000} s`;
  return typeof error.code === 'number' ? `failed with status ${error.code}` : 'could not be run';
}
