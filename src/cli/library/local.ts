/**
 * The control plane of this process: opened by its first use, closed when no call is under way and no sandbox
 * needs it. A sandbox paused to disk needs none: the next use opens it again.
 */

import { readConfig } from '../../base/config.ts';
import { describeError } from '../../base/errors.ts';
import { Listeners } from '../../base/listeners.ts';
import { type Log, silentLog } from '../../base/log.ts';
import { silentProgress } from '../../base/progress.ts';
import type { RuntimeTape } from '../../host/runtime/model-servers/tape.ts';
import type { ControlPlane, SandboxInfo } from '../../sandbox/contract/control.ts';
import type { Host, HostOptions } from './host.ts';

export type LocalOptions = Pick<HostOptions, 'signal' | 'onProgress' | 'log'>;

export interface OpenedPlane {
  readonly control: ControlPlane;
  close(): Promise<void>;
}

export class LocalPlane {
  readonly #start: (options: LocalOptions) => Promise<OpenedPlane>;
  #opened: Promise<OpenedPlane> | undefined;
  /** Of the last opened one. Never rejects. */
  #closing: Promise<void> = Promise.resolve();
  #calls = 0;
  /** Ids of sandboxes that need this process. */
  readonly #running = new Set<string>();
  readonly #listeners = new Listeners<SandboxInfo>();

  constructor(start: (options: LocalOptions) => Promise<OpenedPlane> = (options) => startPlane(options)) {
    this.#start = start;
  }

  /** @param options only those of the call that opens the plane count */
  host(options: LocalOptions): Host {
    const { log = silentLog } = options;
    return {
      use: async (body) => {
        this.#calls += 1;
        try {
          return await body((await this.#open(options)).control);
        } finally {
          this.#calls -= 1;
          await this.#closeIfUnused(log);
        }
      },
      guestsLast: false,
      onChange: (listener) => this.#listeners.listen(listener),
      onInterruption: () => () => undefined,
    };
  }

  #open(options: LocalOptions): Promise<OpenedPlane> {
    if (this.#opened !== undefined) return this.#opened;
    const { log = silentLog } = options;
    const opening = this.#closing.then(async () => {
      const plane = await this.#start(options);
      plane.control.onChange((info) => this.#note(info, log));
      return plane;
    });
    this.#opened = opening;
    opening.catch(() => {
      if (this.#opened === opening) this.#opened = undefined;
    });
    return opening;
  }

  #note(info: SandboxInfo, log: Log): void {
    const isOnDisk = info.status === 'paused' && info.pausedTo !== 'memory';
    if (info.status === 'ended' || isOnDisk) this.#running.delete(info.id);
    else this.#running.add(info.id);
    this.#listeners.emit(info);
    void this.#closeIfUnused(log);
  }

  /** Resolves when what is unused is closed. A failure is logged: the caller's work is done, and the next use opens anew. */
  async #closeIfUnused(log: Log): Promise<void> {
    const opened = this.#opened;
    if (this.#calls === 0 && this.#running.size === 0 && opened !== undefined) {
      this.#opened = undefined;
      this.#closing = close(opened, log);
    }
    if (this.#opened === undefined) await this.#closing;
  }
}

async function close(opened: Promise<OpenedPlane>, log: Log): Promise<void> {
  // A failure to open was thrown to the caller.
  const plane = await opened.catch(() => undefined);
  try {
    await plane?.close();
  } catch (error) {
    log.error('could not release all of the sandboxes', { reason: describeError(error) });
  }
}

/** @param tape in place of the cassette that the environment names */
export async function startPlane(options: LocalOptions, tape?: RuntimeTape): Promise<OpenedPlane> {
  // Loaded only here: a daemon's client needs none of it.
  const { openPlane } = await import('../../host/daemon/plane.ts');
  const { log = silentLog, signal = new AbortController().signal } = options;
  const progress = options.onProgress ?? silentProgress;
  const plane = await openPlane({ config: readConfig(process.env), progress, log, signal, tape });
  return { control: plane.control, close: async () => await plane[Symbol.asyncDispose]() };
}
