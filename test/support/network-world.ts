/**
 * A daemon on a host with a private internet, so that guests have destinations and nothing leaves the machine:
 *
 *     guest ── TAP ── host namespace: daemon, 198.18.0.1 ── 198.18.0.2 internet: web, resolver, metadata
 *
 * The daemon's socket is in the file system, which is the same in all namespaces; /run and the resolver's configuration
 * are its own.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { readConfig } from '../../src/base/config.ts';
import type { ServeReport } from '../../src/cli/commands/serve.ts';
import { type Daemon, openDaemon } from '../../src/cli/library/daemon.ts';
import { ANCHOR_PREFIX } from '../../src/egress/net/xdp/anchor.ts';
import { ROOT } from './cli.ts';
import { type DaemonProcess, watchDaemon } from './daemon.ts';
import { Namespace } from './namespaces.ts';
import { temporaryHome } from './vm.ts';

export const ALLOWED = { name: 'allowed.example', address: '93.184.216.34' } as const;
export const FORBIDDEN = { name: 'forbidden.example', address: '93.184.216.99' } as const;
export const METADATA = '169.254.169.254';
const UPLINK = '198.18.0.1';
const INTERNET = '198.18.0.2';

/** Enters private mounts: `sh -c ENTER sh RESOLV_CONF COMMAND…`. */
const ENTER = 'mount -t tmpfs tmpfs /run && mount --bind "$1" /etc/resolv.conf && shift && exec "$@"';

export interface CommandResult {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export class NetworkWorld implements AsyncDisposable {
  readonly host: Namespace;
  readonly home: string;
  readonly #internet: Namespace;
  readonly #servers: ChildProcess;
  readonly #daemons: DaemonProcess[] = [];
  readonly #more: Readonly<Record<string, string>>;

  private constructor(made: {
    host: Namespace;
    internet: Namespace;
    servers: ChildProcess;
    home: string;
    env: Readonly<Record<string, string>>;
  }) {
    this.host = made.host;
    this.home = made.home;
    this.#more = made.env;
    this.#internet = made.internet;
    this.#servers = made.servers;
  }

  /** @param tls key and certificate with which its internet speaks HTTPS, and which its daemons trust */
  static async create(tls?: { key: string; cert: string }): Promise<NetworkWorld> {
    const host = await Namespace.create();
    const internet = await Namespace.create();
    await host.joinTo(internet, 'up0', 'eth0');
    await host.run('ip', 'address', 'add', `${UPLINK}/24`, 'dev', 'up0');
    await internet.run('ip', 'address', 'add', `${INTERNET}/24`, 'dev', 'eth0');
    for (const address of [ALLOWED.address, FORBIDDEN.address, METADATA]) {
      await internet.run('ip', 'address', 'add', `${address}/32`, 'dev', 'lo');
    }
    await host.run('ip', 'route', 'add', 'default', 'via', INTERNET);
    const names = { [ALLOWED.name]: ALLOWED.address, [FORBIDDEN.name]: FORBIDDEN.address };
    const program = join(import.meta.dirname, '../fixtures/net-internet.mjs');
    const [enter = '', ...args] = [...internet.enter, process.execPath, program];
    const settings = [names, ...(tls === undefined ? [] : [tls])].map((one) => JSON.stringify(one));
    const servers = spawn(enter, [...args, ...settings], { stdio: ['pipe', 'pipe', 'inherit'] });
    await once(servers.stdout, 'data');
    const home = await temporaryHome();
    await writeFile(join(home, 'resolv.conf'), `nameserver ${INTERNET}\n`);
    const roots = join(home, 'roots.pem');
    if (tls !== undefined) await writeFile(roots, tls.cert);
    const env = tls === undefined ? {} : { NODE_EXTRA_CA_CERTS: roots };
    return new NetworkWorld({ host, internet, servers, home, env });
  }

  /**
   * Starts a daemon and connects to it.
   * @param env additional environment
   * @param flags additional flags of `serve`
   */
  async serve(
    env: Readonly<Record<string, string>> = {},
    ...flags: string[]
  ): Promise<{ process: DaemonProcess; control: Daemon; report: ServeReport }> {
    const [enter = '', ...args] = this.#inside();
    const serve = ['serve', '-o', 'json', '--pool', '0', ...flags];
    const process = watchDaemon(enter, [...args, ...serve], { ...this.#env, ...env });
    this.#daemons.push(process);
    const report = await process.ready();
    const control = await openDaemon(readConfig({ NEUROVISOR_HOME: this.home }));
    return { process, control, report };
  }

  /** Runs one command to its end. @param before command prefix, for example `setpriv` with options */
  async command(args: readonly string[], before: readonly string[] = []): Promise<CommandResult> {
    const [enter = '', ...more] = [...this.#inside(before), ...args];
    const child = spawn(enter, more, {
      env: { ...process.env, NO_COLOR: '1', ...this.#env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const [stdout, stderr, [status]] = await Promise.all([
      text(child.stdout),
      text(child.stderr),
      once(child, 'close'),
    ]);
    return { status, stdout, stderr };
  }

  get #env(): Readonly<Record<string, string>> {
    return { NEUROVISOR_HOME: this.home, NEUROVISOR_UPSTREAM: 'engine', ...this.#more };
  }

  /** The command that becomes `neurovisor` in there by exec. */
  #inside(before: readonly string[] = []): string[] {
    const enter = [...this.host.enter, 'unshare', '--mount', 'sh', '-c', ENTER, 'sh'];
    return [...enter, join(this.home, 'resolv.conf'), ...before, join(ROOT, 'neurovisor')];
  }

  /** Positive control: the page that the host itself gets, over its uplink. */
  async hostSees(address: string): Promise<string> {
    return await this.host.run('curl', '--silent', '--max-time', '5', `http://${address}/`);
  }

  /** Names of the existing TAPs of sandboxes. */
  async taps(): Promise<string[]> {
    const links = JSON.parse(await this.host.run('ip', '-json', 'link')) as { ifname: string }[];
    return links.map(({ ifname }) => ifname).filter(isSandboxTap);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const daemon of this.#daemons) daemon.kill('SIGTERM');
    await Promise.all(this.#daemons.map(({ ended }) => ended));
    const ended = once(this.#servers, 'close');
    this.#servers.stdin?.end();
    await ended;
    await this.#internet[Symbol.asyncDispose]();
    await this.host[Symbol.asyncDispose]();
    await rm(this.home, { recursive: true });
  }
}

function isSandboxTap(name: string): boolean {
  return name.startsWith('nv-') && !name.startsWith(ANCHOR_PREFIX);
}
