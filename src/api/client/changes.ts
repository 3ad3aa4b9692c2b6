/**
 * The daemon's stream of changes, open while there are listeners. A broken stream reconnects and reports missed changes
 * from the list of sandboxes: only the last one for each sandbox.
 */
import type { IncomingMessage } from 'node:http';
import type { Clock } from '../../base/clock.ts';
import { ignore } from '../../base/ignore.ts';
import { Listeners } from '../../base/listeners.ts';
import { MIB } from '../../base/units.ts';
import type { SandboxInfo } from '../../sandbox/contract/control.ts';
import { sandboxInfo } from './answers.ts';
import { answerInvalid } from './errors.ts';
import { serverSent } from './server-sent.ts';

export interface ChangeSource {
  open(signal: AbortSignal): Promise<IncomingMessage>;
  list(): Promise<readonly SandboxInfo[]>;
  get(id: string): Promise<SandboxInfo>;
}

const LIMITS = {
  lineCharactersMax: MIB,
  /** Delay before reconnecting. */
  retryMs: 1000,
} as const;

export class Changes {
  readonly #source: ChangeSource;
  readonly #clock: Clock;
  readonly #listeners = new Listeners<SandboxInfo>();
  readonly #interruptionListeners = new Listeners<void>();
  /** Id → last reported status, without ended sandboxes. */
  readonly #seen = new Map<string, string>();
  #running: AbortController | undefined;

  constructor(source: ChangeSource, clock: Clock) {
    this.#source = source;
    this.#clock = clock;
  }

  listen(listener: (info: SandboxInfo) => void): () => void {
    const remove = this.#listeners.listen(listener);
    if (this.#running === undefined) {
      this.#running = new AbortController();
      void this.#follow(this.#running.signal);
    }
    return () => {
      remove();
      if (this.#listeners.size === 0) this.close();
    };
  }

  /** The listener is also called for sandboxes of which this client has seen no change. */
  listenInterruptions(listener: () => void): () => void {
    return this.#interruptionListeners.listen(listener);
  }

  close(): void {
    this.#listeners.clear();
    this.#interruptionListeners.clear();
    this.#seen.clear();
    this.#running?.abort();
    this.#running = undefined;
  }

  async #follow(signal: AbortSignal): Promise<void> {
    for (let first = true; !signal.aborted; first = false) {
      try {
        const stream = await this.#source.open(signal);
        if (!first) {
          await this.#catchUp(signal);
          this.#interrupted(signal);
        }
        await this.#read(stream, signal);
      } catch (error) {
        ignore(error, 'the stream reconnects');
        this.#interrupted(signal);
      }
      if (!signal.aborted) await this.#waitToRetry(signal);
    }
  }

  async #read(stream: IncomingMessage, signal: AbortSignal): Promise<void> {
    for await (const { event, data } of serverSent(stream, LIMITS.lineCharactersMax)) {
      if (event !== 'sandbox') continue;
      const read = sandboxInfo.read(JSON.parse(data));
      if (read === null) throw answerInvalid('malformed change');
      this.#report(read.value, signal);
    }
  }

  async #catchUp(signal: AbortSignal): Promise<void> {
    const missing = new Set(this.#seen.keys());
    for (const info of await this.#source.list()) {
      missing.delete(info.id);
      if (this.#seen.get(info.id) !== info.status) this.#report(info, signal);
    }
    for (const id of missing) {
      this.#seen.delete(id);
      try {
        this.#report(await this.#source.get(id), signal);
      } catch (error) {
        ignore(error, 'the daemon has forgotten the ended sandbox');
      }
    }
  }

  #interrupted(signal: AbortSignal): void {
    if (!signal.aborted) this.#interruptionListeners.emit();
  }

  #report(info: SandboxInfo, signal: AbortSignal): void {
    if (signal.aborted) return;
    if (info.status === 'ended') this.#seen.delete(info.id);
    else this.#seen.set(info.id, info.status);
    this.#listeners.emit(info);
  }

  #waitToRetry(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const onAbort = (): void => {
        cancel();
        resolve();
      };
      const cancel = this.#clock.after(LIMITS.retryMs, () => {
        signal.removeEventListener('abort', onAbort);
        resolve();
      });
      signal.addEventListener('abort', onAbort, { once: true });
    });
  }
}
