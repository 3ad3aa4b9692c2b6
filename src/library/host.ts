/**
 * Where the library's sandboxes are: in a daemon, or in this process.
 *
 *     Sandbox ──► Host ──► control plane of a daemon              connections stay for the process's life
 *                     └──► control plane of this process (local)  open while it has a sandbox
 */
import type { Log } from '../base/log.ts';
import type { Progress } from '../base/progress.ts';
import { type Config, readConfig } from '../config.ts';
import type { ControlPlane, SandboxInfo } from '../sandbox/control.ts';
import { type Daemon, openDaemon, openUsualDaemon } from './daemon.ts';
import { LocalPlane } from './local.ts';

/**
 * `auto`: the daemon of this home if it runs, else this process · `never`: this process · `require`: the
 * daemon of this home, or of NEUROVISOR_URL · a URL: the daemon there, with NEUROVISOR_API_KEY.
 */
export type DaemonChoice = 'auto' | 'never' | 'require' | `http://${string}` | `https://${string}`;

export interface HostOptions {
  /** Default `auto`. */
  readonly daemon?: DaemonChoice | undefined;
  /** Cancels the set-up. */
  readonly signal?: AbortSignal | undefined;
  /** Called while this process sets the machine up. A daemon has done that already. */
  readonly onProgress?: Progress | undefined;
  readonly log?: Log | undefined;
}

export interface Host {
  /** Calls `body` with the control plane, which stays open at least until `body` has resolved. */
  use<T>(body: (control: ControlPlane) => Promise<T>): Promise<T>;
  /** True: a guest is valid for the sandbox's whole life, however often it is paused. */
  readonly guestsLast: boolean;
  onChange(listener: (info: SandboxInfo) => void): () => void;
}

/** The hosts of one process: one control plane of its own, and one connection pool for each daemon. */
export class Hosts {
  readonly #local = new LocalPlane();
  readonly #daemons = new Map<string, Promise<Host>>();

  /** @throws ClientError, or what set-up could not get */
  async open(options: HostOptions): Promise<Host> {
    const { daemon: choice = 'auto' } = options;
    const config = readConfig(process.env);
    if (choice === 'never') return this.#local.host(options);
    if (choice === 'auto') {
      const address = addressOf(config);
      const known = this.#daemons.get(address);
      if (known !== undefined) return await known;
      const daemon = await openUsualDaemon(config);
      if (daemon === null) return this.#local.host(options);
      return await this.#remember(address, async () => daemon);
    }
    const there: Config = choice === 'require' ? config : { ...config, daemonUrl: choice };
    return await this.#remember(addressOf(there), () => openDaemon(there));
  }

  #remember(address: string, open: () => Promise<Daemon>): Promise<Host> {
    const known = this.#daemons.get(address);
    if (known !== undefined) return known;
    const opening = open().then(daemonHost);
    this.#daemons.set(address, opening);
    opening.catch(() => this.#daemons.delete(address));
    return opening;
  }
}

const addressOf = ({ daemonUrl, home }: Config): string => daemonUrl ?? `home ${home}`;

function daemonHost(control: Daemon): Host {
  return {
    use: (body) => body(control),
    // Each operation is a request of its own.
    guestsLast: true,
    onChange: (listener) => control.onChange(listener),
  };
}
