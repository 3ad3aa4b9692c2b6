/**
 * QEMU in its jail, as sandboxes run it, and without one. In software emulation its machine is empty; with KVM it is
 * paused, since access to /dev/kvm matters. So this works on a KVM that can't boot Linux.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { systemClock } from '../../src/base/clock.ts';
import { describeError, errorCode } from '../../src/base/errors.ts';
import { resolveHome } from '../../src/base/home.ts';
import { ignore } from '../../src/base/ignore.ts';
import { confine, QEMU_BINARY, type QemuConfinement } from '../../src/host/runtime/jail.ts';
import { isRootWith, NEEDED_CAPABILITIES } from '../../src/machine/jail/open.ts';
import { probeAccelerator } from '../../src/machine/vmm/accelerator/probe.ts';
import { type Launch, type Launched, launchDirect } from '../../src/machine/vmm/launch.ts';
import { OWN_FILTER } from '../../src/machine/vmm/qemu/driver.ts';
import { QmpClient } from '../../src/machine/vmm/qemu/qmp.ts';
import { ProofError } from '../errors.ts';
import type { JailContext } from '../proof-runtime.ts';
import { MEMORY_MIB, SIGSYS, type Vmm, type Vmms, type VmmTraits } from './vmm.ts';

const MACHINE = ['-nodefaults', '-no-user-config', '-display', 'none', '-S'];
const MACHINES = {
  kvm: ['-machine', 'pc', '-accel', 'kvm', '-cpu', 'qemu64', '-m', `${MEMORY_MIB}M`],
  tcg: ['-machine', 'none'],
} as const;
const QMP_FD = 3;
const QMP = ['-chardev', `socket,id=qmp,fd=${QMP_FD}`, '-mon', 'chardev=qmp,mode=control'];
const EPERM = -1;
const ENOSYS = -38;

const TRAITS: VmmTraits = {
  name: 'QEMU',
  program: '/usr/bin/qemu-system-x86_64',
  // ENOSYS makes a library fall back to another call; the control shows that the kernel has the call.
  refused: [`killed by ${SIGSYS}`, `returned ${EPERM}`, `returned ${ENOSYS}`],
  // The program is process 1 of its own namespace.
  allowed: { name: 'getpid', number: 39, returns: 'returned 1' },
  filters: 2,
  threads: ['qemu-system-x86'],
  keepsUser: !isRootWith(NEEDED_CAPABILITIES),
  mapsOnlyItself: true,
  namespaces: ['user', 'mnt', 'pid', 'net', 'ipc', 'uts', 'cgroup'],
  root: /^(lib|lib64|proc|usr| )*$/,
  devices: /^none$/,
  writable: 'none',
  // Set by bubblewrap.
  environment: 'PWD=/',
  dropsBounding: true,
  opens: { number: 257, paths: ['/etc/passwd', '/proc/1/status', '/sys/kernel', '/dev/kvm', '/dev/net/tun'] },
};
const KVM = '/dev/kvm';
/** Differences with KVM. */
const WITH_KVM: Partial<VmmTraits> = {
  name: 'QEMU with KVM',
  root: /^dev (lib|lib64|proc|usr| )*$/,
  devices: /^kvm$/,
  writable: KVM,
  opens: { ...TRAITS.opens, paths: TRAITS.opens.paths.filter((path) => path !== KVM) },
};

export class QemuVmms implements Vmms {
  readonly traits: VmmTraits;
  readonly #accelerator: 'kvm' | 'tcg';
  readonly #confinement: QemuConfinement;
  readonly #dir: string;
  readonly #running = new Set<Launched>();
  #count = 0;

  private constructor(confinement: QemuConfinement, accelerator: 'kvm' | 'tcg', dir: string) {
    this.traits = accelerator === 'kvm' ? { ...TRAITS, ...WITH_KVM } : TRAITS;
    this.#accelerator = accelerator;
    this.#confinement = confinement;
    this.#dir = dir;
  }

  /** @throws RuntimeError `jail_unavailable` */
  static async open({ config, log, onlyLogs = false }: JailContext): Promise<QemuVmms> {
    const home = resolveHome(config.home);
    const accelerator = await acceleratorOf(config);
    const jail = { jail: onlyLogs ? 'log' : 'enforce', jailUids: config.jailUids } as const;
    const confinement = await confine({
      config: jail,
      withKvm: accelerator === 'kvm',
      home,
      log,
      binary: QEMU_BINARY,
      acceptsGaps: true,
    });
    return new QemuVmms(confinement, accelerator, await mkdtemp(join(tmpdir(), 'nv-prove-')));
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
      argv: [QEMU_BINARY, ...filter, ...MACHINE, ...MACHINES[this.#accelerator], ...QMP],
      stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
      dir: this.#dir,
      files: this.#accelerator === 'kvm' ? [{ path: KVM, access: 'device' }] : [],
      memoryMib: MEMORY_MIB,
      cpus: 1,
    });
    this.#running.add(launched);
    await ready(launched);
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

/** The configured accelerator, even if Linux can't boot with it. */
async function acceleratorOf({ accelerator, home }: JailContext['config']): Promise<'kvm' | 'tcg'> {
  if (accelerator !== 'auto') return accelerator;
  const verdict = await probeAccelerator({ cacheDir: resolveHome(home).cacheDir });
  return verdict.accelerator === 'kvm' ? 'kvm' : 'tcg';
}

/** QEMU greets before its machine is made, and answers once machine and filter are ready. */
function ready({ child, pid }: Launched): Promise<void> {
  let words = '';
  child.stderr?.on('data', (bytes: Buffer) => {
    words = (words + bytes.toString('utf8')).slice(0, WORDS_MAX);
  });
  const qmp = new QmpClient(child.stdio[QMP_FD] as Duplex, systemClock);
  return new Promise((resolve, reject) => {
    const fail = (cause: unknown): void => {
      reject(new ProofError('no_world', 'could not start a VMM', { cause: new Error(String(cause)) }));
    };
    qmp.negotiate(READY_MS_MAX).then(resolve, (error: unknown) => {
      if (errorCode(error) === 'vm_gone') ignore(error, 'the end of the process reports it');
      else fail(describeError(error));
    });
    child.once('close', (status) => fail(words.trim() || `it ended with ${status}`));
    pid.catch((error: unknown) => fail(describeError(error)));
  });
}

const WORDS_MAX = 1_000;
const READY_MS_MAX = 60_000;
