/** QEMU as sandboxes get it, with a machine of nothing, in a jail and without one. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { describeError } from '../../base/errors.ts';
import { QEMU_BINARY } from '../../runtime/driver.ts';
import { resolveHome } from '../../runtime/home.ts';
import { confine, type QemuConfinement } from '../../runtime/jail.ts';
import { type Launch, type Launched, launchDirect } from '../../vmm/launch.ts';
import { OWN_FILTER } from '../../vmm/qemu/driver.ts';
import { ProofError } from '../errors.ts';
import {
  type JailContext,
  MEMORY_MIB,
  SIGSYS,
  type Vmm,
  type Vmms,
  type VmmTraits,
} from './vmm.ts';

const MACHINE = ['-machine', 'none', '-nodefaults', '-no-user-config', '-display', 'none', '-S'];
const QMP_FD = 3;
const QMP = ['-chardev', `socket,id=qmp,fd=${QMP_FD}`, '-mon', 'chardev=qmp,mode=control'];
const EPERM = -1;
const ENOSYS = -38;

const TRAITS: VmmTraits = {
  name: 'QEMU',
  program: '/usr/bin/qemu-system-x86_64',
  // ENOSYS: where a library then uses another call; the kernel has these, as the control shows.
  refused: [`killed by ${SIGSYS}`, `returned ${EPERM}`, `returned ${ENOSYS}`],
  // It is process 1 of a namespace of its own.
  allowed: { name: 'getpid', number: 39, returns: 'returned 1' },
  filters: 2,
  threads: ['qemu-system-x86'],
  namespaces: ['user', 'mnt', 'pid', 'net', 'ipc', 'uts', 'cgroup'],
  root: /^(lib|lib64|proc|usr| )*$/,
  writable: 'none',
  // Of bubblewrap.
  environment: 'PWD=/',
  dropsBounding: true,
  opens: {
    number: 257,
    paths: ['/etc/passwd', '/proc/1/status', '/sys/kernel', '/dev/kvm', '/dev/net/tun'],
  },
};

export class QemuVmms implements Vmms {
  readonly traits = TRAITS;
  readonly #confinement: QemuConfinement;
  readonly #dir: string;
  readonly #running = new Set<Launched>();
  #count = 0;

  private constructor(confinement: QemuConfinement, dir: string) {
    this.#confinement = confinement;
    this.#dir = dir;
  }

  /** @throws RuntimeError `jail_unavailable` */
  static async open({ config, log, onlyLogs = false }: JailContext): Promise<QemuVmms> {
    const home = resolveHome(config.home);
    const jail = { jail: onlyLogs ? 'log' : 'enforce', jailUids: config.jailUids } as const;
    const confinement = await confine({
      config: jail,
      home,
      log,
      binary: QEMU_BINARY,
      acceptsGaps: true,
    });
    return new QemuVmms(confinement, await mkdtemp(join(tmpdir(), 'nv-prove-')));
  }

  jailed(): Promise<Vmm> {
    return this.#start(this.#confinement.launch, this.#confinement.ownFilter ? OWN_FILTER : []);
  }

  free(): Promise<Vmm> {
    return this.#start(launchDirect, []);
  }

  async #start(launch: Launch, filter: readonly string[]): Promise<Vmm> {
    this.#count += 1;
    const launched = await launch({
      id: `prove${this.#count}`,
      argv: [QEMU_BINARY, ...filter, ...MACHINE, ...QMP],
      stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
      dir: this.#dir,
      files: [],
      memoryMib: MEMORY_MIB,
      cpus: 1,
    });
    this.#running.add(launched);
    await greeting(launched);
    const pid = await launched.pid;
    return { pid, end: () => this.#end(launched) };
  }

  async #end(launched: Launched): Promise<void> {
    if (!this.#running.delete(launched)) return;
    const { child } = launched;
    if (child.exitCode === null && child.signalCode === null) {
      const over = new Promise((resolve) => child.once('exit', resolve));
      launched.kill();
      await over;
    }
    await launched.release();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#running].map((one) => this.#end(one)));
    await this.#confinement.close();
    await rm(this.#dir, { recursive: true, force: true });
  }
}

/** It says something when it has started, its own filter included. */
function greeting({ child, pid }: Launched): Promise<void> {
  let words = '';
  child.stderr?.on('data', (bytes: Buffer) => {
    words = (words + bytes.toString('utf8')).slice(0, WORDS_MAX);
  });
  const qmp = child.stdio[QMP_FD] as Duplex;
  return new Promise((resolve, reject) => {
    const fail = (cause: unknown): void => {
      reject(new ProofError('no_world', 'start a VMM', { cause: new Error(String(cause)) }));
    };
    qmp.once('data', () => resolve());
    child.once('close', (status) => fail(words.trim() || `it ended with ${status}`));
    pid.catch((error: unknown) => fail(describeError(error)));
  });
}

const WORDS_MAX = 1_000;
