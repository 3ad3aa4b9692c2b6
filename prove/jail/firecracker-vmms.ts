/**
 * Firecracker in its jail, as sandboxes run it, and without jail and filters. Both run an idle guest: the
 * permissions of a VMM do not depend on its guest, so this works on a KVM that can't boot Linux.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { sleep } from '../../src/base/clock.ts';
import { CodedError, describeError } from '../../src/base/errors.ts';
import { resolveHome } from '../../src/base/home.ts';
import { newSandboxId } from '../../src/base/ids.ts';
import { ignore } from '../../src/base/ignore.ts';
import { MIB } from '../../src/base/units.ts';
import { withFirecracker } from '../../src/host/runtime/firecracker/binary.ts';
import { makeFirecracker } from '../../src/host/runtime/firecracker/firecracker.ts';
import type { Confinement } from '../../src/host/runtime/jail.ts';
import { makeWorkspace } from '../../src/host/runtime/workspace.ts';
import { elfProgram } from '../../src/machine/jail/elf.ts';
import { isRootWith, NEEDED_CAPABILITIES } from '../../src/machine/jail/open.ts';
import type { Vm, VmmDriver, VmSpec } from '../../src/machine/vmm/driver.ts';
import { findBinary } from '../../src/machine/vmm/firecracker/installation.ts';
import { ProofError } from '../errors.ts';
import type { JailContext } from '../proof-runtime.ts';
import { MEMORY_MIB, SIGSYS, type Vmm, type Vmms, type VmmTraits } from './vmm.ts';

const IDLE_ENTRY = 0x10_0000n;
/** `hlt` in a loop: interrupts are off at the entry, so it sleeps forever. */
const IDLE_CODE = Uint8Array.of(0xf4, 0xeb, 0xfd);
const DISK_BYTES = MIB;
const GUEST_CID = 3;
const VCPU = 'fc_vcpu 0';
const START_MS_MAX = 60_000;
const START_GAP_MS = 10;
const WORDS_MAX = 1_000;
const BAD_FD = 0xffff_ffff;

const TRAITS: VmmTraits = {
  name: 'Firecracker',
  program: '/firecracker',
  // Its SIGSYS handler logs the call and exits with this status.
  refused: ['exited 148', `killed by ${SIGSYS}`],
  allowed: { name: 'close', number: 3, args: [BAD_FD], returns: 'returned -9' },
  // The launcher's and Firecracker's own.
  filters: 2,
  threads: ['firecracker', 'fc_api', VCPU],
  keepsUser: false,
  // Its jailer makes no user namespace; its user is an otherwise unused one of the host.
  mapsOnlyItself: false,
  namespaces: ['mnt', 'pid', 'net', 'ipc', 'uts', 'cgroup'],
  root: /^(dev|fc|firecracker|firecracker\.pid|run|api|c|ch|v| )*$/,
  devices: /^(kvm|net|urandom|userfaultfd| )*$/,
  writable: '/',
  environment: '',
  dropsBounding: false,
  opens: { number: 2, paths: ['/etc/passwd', '/proc/1/status', '/sys/kernel', '/dev/null', '/../../etc/passwd'] },
};

/** Differences in the jail of an ordinary user. */
const OF_USER: Partial<VmmTraits> = {
  keepsUser: true,
  mapsOnlyItself: true,
  namespaces: ['user', ...TRAITS.namespaces],
  root: /^(dev|firecracker|proc|vm| )*$/,
  devices: /^kvm$/,
  writable: '/dev/kvm; /vm; /vm/fc/s; /vm/fc/overlay',
  // Set by bubblewrap.
  environment: 'PWD=/vm',
  dropsBounding: true,
};

type VmmPlace = Pick<VmSpec, 'id' | 'dir' | 'overlayPath' | 'channelPath'>;

export class FirecrackerVmms implements Vmms {
  readonly traits = isRootWith(NEEDED_CAPABILITIES) ? TRAITS : { ...TRAITS, ...OF_USER };
  readonly #driver: VmmDriver;
  readonly #confinement: Confinement;
  readonly #binary: string;
  readonly #dir: string;
  readonly #running = new Set<() => Promise<void>>();
  #count = 0;

  private constructor(made: { driver: VmmDriver; confinement: Confinement }, binary: string, dir: string) {
    this.#driver = made.driver;
    this.#confinement = made.confinement;
    this.#binary = binary;
    this.#dir = dir;
  }

  /** @throws ProofError `no_world` with the reason, if it can't be proved here */
  static async open(context: JailContext): Promise<FirecrackerVmms> {
    const { log } = context;
    const home = resolveHome(context.config.home);
    const config = await withFirecracker(context.config, home);
    // Where sandboxes have theirs: a jail links disks, which requires one file system.
    const { dir } = await makeWorkspace(home.runDir, newSandboxId());
    try {
      const binary = await findBinary(config.firecracker);
      const made = await makeFirecracker({ config: { ...config, jail: 'enforce' }, home, log, acceptsGaps: true });
      await writeFile(join(dir, 'kernel'), idleGuest());
      await writeFile(join(dir, 'root'), Buffer.alloc(DISK_BYTES));
      return new FirecrackerVmms(made, binary, dir);
    } catch (cause) {
      await rm(dir, { recursive: true, force: true });
      throw cannot(cause);
    }
  }

  async jailed(): Promise<Vmm> {
    return await this.start(await this.place(), {
      kernelPath: join(this.#dir, 'kernel'),
      rootImagePath: join(this.#dir, 'root'),
    });
  }

  /** Starts a jailed VMM with a given guest. @throws ProofError */
  async start(
    { id, dir, overlayPath, channelPath }: VmmPlace,
    files: Pick<VmSpec, 'kernelPath' | 'rootImagePath'>,
  ): Promise<Vmm & Pick<Vm, 'exited'>> {
    let vm: Vm;
    try {
      vm = await this.#driver.start({
        id,
        dir,
        overlayPath,
        channelPath,
        ...files,
        guestCid: GUEST_CID,
        console: 'log',
        cpus: 1,
        memoryMib: MEMORY_MIB,
      });
    } catch (cause) {
      throw cannot(cause);
    }
    const vmm = this.#kept(vm.pid ?? 0, async () => {
      await vm.kill();
      await rm(dir, { recursive: true, force: true });
    });
    return { ...vmm, exited: vm.exited };
  }

  async free(): Promise<Vmm> {
    const { dir, overlayPath } = await this.place();
    const drive = (id: string, path: string, isReadOnly: boolean) => ({
      drive_id: id,
      path_on_host: path,
      is_root_device: isReadOnly,
      is_read_only: isReadOnly,
    });
    const machine = {
      'boot-source': { kernel_image_path: join(this.#dir, 'kernel'), boot_args: '' },
      drives: [drive('root', join(this.#dir, 'root'), true), drive('overlay', overlayPath, false)],
      'machine-config': { vcpu_count: 1, mem_size_mib: MEMORY_MIB },
    };
    const file = join(dir, 'machine.json');
    await writeFile(file, JSON.stringify(machine));
    const words = ['--no-seccomp', '--api-sock', join(dir, 'api'), '--config-file', file];
    const launcher = ['--pdeathsig', 'KILL', '--', this.#binary];
    const child = spawn('setpriv', [...launcher, ...words], { stdio: ['ignore', 'pipe', 'pipe'], env: {} });
    const vmm = this.#kept(child.pid ?? 0, async () => {
      await ended(child);
      await rm(dir, { recursive: true, force: true });
    });
    await running(child);
    return vmm;
  }

  /** Makes the directory and paths of a VM. */
  async place(): Promise<VmmPlace> {
    this.#count += 1;
    const id = `prove${process.pid}x${this.#count}`;
    const dir = join(this.#dir, `${this.#count}`);
    await mkdir(dir, { mode: 0o700 });
    const overlayPath = join(dir, 'overlay');
    await writeFile(overlayPath, Buffer.alloc(DISK_BYTES));
    return { id, dir, overlayPath, channelPath: join(dir, 'v') };
  }

  #kept(pid: number, finish: () => Promise<void>): Vmm {
    let over: Promise<void> | undefined;
    const end = (): Promise<void> => {
      this.#running.delete(end);
      over ??= finish();
      return over;
    };
    this.#running.add(end);
    return { pid, end };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#running].map((end) => end()));
    await this.#confinement.close();
    await rm(this.#dir, { recursive: true, force: true });
  }
}

/** Waits for the vCPU thread, which shows that the guest runs. @throws ProofError */
async function running(child: ChildProcess): Promise<void> {
  let words = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream?.on('data', (bytes: Buffer) => {
      words = (words + bytes.toString('utf8')).slice(-WORDS_MAX);
    });
  }
  child.once('error', (error) => {
    words = describeError(error);
  });
  for (let waitedMs = 0; waitedMs < START_MS_MAX; waitedMs += START_GAP_MS) {
    if (hasThread(child.pid ?? 0, VCPU)) return;
    if (hasEnded(child)) throw cannot(words.trim() || `it ended with ${child.exitCode}`);
    await sleep(START_GAP_MS);
  }
  throw cannot(`it did not start its guest within ${START_MS_MAX / 1_000} s`);
}

const hasEnded = ({ pid, exitCode, signalCode }: ChildProcess): boolean =>
  pid === undefined || exitCode !== null || signalCode !== null;

function hasThread(pid: number, name: string): boolean {
  try {
    const dir = `/proc/${pid}/task`;
    return readdirSync(dir).some((task) => readFileSync(join(dir, task, 'comm'), 'latin1').trim() === name);
  } catch (error) {
    ignore(error, 'the process has ended, which is reported elsewhere');
    return false;
  }
}

async function ended(child: ChildProcess): Promise<void> {
  if (hasEnded(child)) return;
  const over = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGKILL');
  await over;
}

function cannot(cause: unknown): ProofError {
  if (cause instanceof ProofError) return cause;
  const remedy = cause instanceof CodedError ? cause.remedy : undefined;
  return new ProofError('no_world', 'could not run this proof with Firecracker', {
    cause,
    remedy:
      remedy ?? 'Run `./neurovisor doctor`: the proof needs /dev/kvm, Firecracker 1.16.1 or newer, and its jailer.',
  });
}

/**
 * An idle guest of two instructions, which any x86 processor and any KVM runs: for hosts that can't boot Linux.
 * @returns an ELF kernel without a note, which is entered in long mode by the 64-bit boot protocol of Linux
 */
function idleGuest(): Uint8Array {
  return elfProgram(IDLE_CODE, IDLE_ENTRY);
}
