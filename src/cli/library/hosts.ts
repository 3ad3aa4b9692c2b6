import { type Config, readConfig } from '../../base/config.ts';
import { waitUnlessAborted } from './abort.ts';
import { type Daemon, isHomeDaemonRunning, openDaemonOnceReady, openUsualDaemon } from './daemon.ts';
import type { Host, HostOptions } from './host.ts';
import { LocalPlane } from './local.ts';

/** The hosts of one process: one control plane of its own, and one connection pool for each daemon. */
export class Hosts {
  readonly #local = new LocalPlane();
  readonly #daemons = new Map<string, Promise<Host>>();

  /** @throws ClientError, or what set-up could not get */
  async open(options: HostOptions): Promise<Host> {
    const { daemon: choice = 'auto', cassette, ...rest } = options;
    if (cassette !== undefined) return await cassette.host({ ...rest, daemon: choice });
    const config = readConfig(process.env);
    if (choice === 'never') return this.#local.host(options);
    if (choice === 'auto') {
      const address = addressOf(config);
      const known = this.#daemons.get(address);
      if (known !== undefined) {
        // The daemon may have ended. Its sandboxes keep their host, which it uses again once it is back.
        const isThere = config.daemonUrl !== null || (await isHomeDaemonRunning(config));
        return isThere ? await known : this.#local.host(options);
      }
      const daemon = await openUsualDaemon(config);
      if (daemon === null) return this.#local.host(options);
      return await this.#remember(address, async () => daemon);
    }
    const there: Config = choice === 'require' ? config : { ...config, daemonUrl: choice };
    const opening = this.#remember(addressOf(there), () => openDaemonOnceReady(there));
    return await waitUnlessAborted(options.signal, opening);
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

/** Of this process. */
export const hosts = new Hosts();

const addressOf = ({ daemonUrl, home }: Config): string => daemonUrl ?? `home ${home}`;

function daemonHost(control: Daemon): Host {
  return {
    use: (body) => body(control),
    // Each operation is a request of its own.
    guestsLast: true,
    onChange: (listener) => control.onChange(listener),
    onInterruption: (listener) => control.onInterruption(listener),
  };
}
