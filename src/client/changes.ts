/**
 * The daemon's event stream, kept open while somebody listens. When it breaks it is opened again, and what
 * changed meanwhile is told by the list of sandboxes; of several changes of one, the last.
 */

import type { IncomingMessage } from 'node:http';
import { sandboxInfo } from '../api/schema/answers.ts';
import type { Clock } from '../base/clock.ts';
import { ignore } from '../base/ignore.ts';
import { Listeners } from '../base/listeners.ts';
import { MIB } from '../base/units.ts';
import type { SandboxInfo } from '../sandbox/control.ts';
import { serverSent } from './server-sent.ts';

export interface ChangeSource {
  /** The event stream. */
  open(signal: AbortSignal): Promise<IncomingMessage>;
  list(): Promise<readonly SandboxInfo[]>;
  get(id: string): Promise<SandboxInfo>;
}

const LIMITS = {
  /** One line of the stream, characters. */
  lineCharactersMax: MIB,
  /** From a broken stream to the next try, milliseconds. */
  retryMs: 1000,
} as const;

export class Changes {
  readonly #source: ChangeSource;
  readonly #clock: Clock;
  readonly #listeners = new Listeners<SandboxInfo>();
  /** Those that have not ended, as last told. */
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

  close(): void {
    this.#listeners.clear();
    this.#seen.clear();
    this.#running?.abort();
    this.#running = undefined;
  }

  async #follow(signal: AbortSignal): Promise<void> {
    for (let first = true; !signal.aborted; first = false) {
      try {
        const stream = await this.#source.open(signal);
        if (!first) await this.#catchUp(signal);
        await this.#read(stream, signal);
      } catch (error) {
        ignore(error, 'the event stream of the daemon is opened again');
      }
      if (!signal.aborted) await this.#pause(signal);
    }
  }

  async #read(stream: IncomingMessage, signal: AbortSignal): Promise<void> {
    for await (const { event, data } of serverSent(stream, LIMITS.lineCharactersMax)) {
      if (event === 'sandbox') this.#tell(sandboxInfo.parse(JSON.parse(data)), signal);
    }
  }

  async #catchUp(signal: AbortSignal): Promise<void> {
    const lost = new Set(this.#seen.keys());
    for (const info of await this.#source.list()) {
      lost.delete(info.id);
      if (this.#seen.get(info.id) !== info.status) this.#tell(info, signal);
    }
    for (const id of lost) {
      this.#seen.delete(id);
      try {
        this.#tell(await this.#source.get(id), signal);
      } catch (error) {
        ignore(error, 'a sandbox that ended so long ago that nothing is known of it');
      }
    }
  }

  #tell(info: SandboxInfo, signal: AbortSignal): void {
    if (signal.aborted) return;
    if (info.status === 'ended') this.#seen.delete(info.id);
    else this.#seen.set(info.id, info.status);
    this.#listeners.emit(info);
  }

  #pause(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const stop = this.#clock.after(LIMITS.retryMs, resolve);
      signal.addEventListener('abort', () => {
        stop();
        resolve();
      });
    });
  }
}
