/**
 * The speed of the channel: round trip and throughput between a host program and a small guest
 * (`fixtures/vsock-guest.c`) through our vsock device, or through the Rust reference (`vhost-device-vsock`) in its
 * place. Same kernel, same QEMU arguments, same client.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CleanupStack } from '../../src/base/cleanup.ts';
import { sleep } from '../../src/base/clock.ts';
import { createVsockHost, type VsockDevice } from '../../src/machine/vsock/host.ts';
import { openProcessMemory } from '../../src/sys/process-memory.ts';
import { GuestTraffic, nextBytes, type TrafficSamples, VsockBenchError } from './guest-traffic.ts';
import { buildInitrd } from './initrd.ts';

/** `copied`: our device, which copies guest memory that QEMU does not share. */
type VsockBackend = 'neurovisor' | 'copied' | 'rust';

interface VsockBenchOptions {
  /** Uncompressed kernel with a PVH entry and VIRTIO_VSOCKETS. */
  readonly kernelPath: string;
  readonly backend: VsockBackend;
  /** The `vhost-device-vsock` program; needed for backend `rust`. */
  readonly rustPath?: string;
  /** Default `qemu-system-x86_64`. */
  readonly qemuPath?: string;
  /** Default `tcg`. */
  readonly accelerator?: 'kvm' | 'tcg';
}

export type VsockSamples = TrafficSamples;

export const GUEST_PORT = 5000;
const GUEST_CID = 77;
const BOOT_TIMEOUT_MS = 60_000;
const BACKEND_TIMEOUT_MS = 5_000;

/** Boots a guest and measures `rounds` times. To compare backends, use `compareVsock`. */
export async function measureVsock(options: VsockBenchOptions & { readonly rounds: number }): Promise<VsockSamples> {
  const bench = await VsockBench.open(options);
  try {
    for (let round = 0; round < options.rounds; round += 1) await bench.round();
    return bench.samples;
  } finally {
    await bench.close();
  }
}

/** Boots a guest per backend and measures them in turn, so that both see the same disturbances. */
export async function compareVsock(
  options: Omit<VsockBenchOptions, 'backend'> & { readonly rounds: number },
  backends: { readonly ours: VsockBackend; readonly baseline: VsockBackend },
): Promise<{ readonly ours: VsockSamples; readonly baseline: VsockSamples }> {
  const ours = await VsockBench.open({ ...options, backend: backends.ours });
  try {
    const theirs = await VsockBench.open({ ...options, backend: backends.baseline });
    try {
      for (let round = 0; round < options.rounds; round += 1) {
        await ours.round();
        await theirs.round();
      }
      return { ours: ours.samples, baseline: theirs.samples };
    } finally {
      await theirs.close();
    }
  } finally {
    await ours.close();
  }
}

export class VsockBench {
  readonly channelPath: string;
  readonly #traffic: GuestTraffic;
  readonly #cleanup: CleanupStack;

  private constructor(channelPath: string, cpuMs: (() => number) | undefined, cleanup: CleanupStack) {
    this.channelPath = channelPath;
    this.#traffic = new GuestTraffic(() => dialChannel(channelPath), cpuMs);
    this.#cleanup = cleanup;
  }

  get samples(): VsockSamples {
    return this.#traffic.samples;
  }

  /** @throws VsockBenchError */
  static async open(options: VsockBenchOptions): Promise<VsockBench> {
    const cleanup = new CleanupStack();
    try {
      const dir = await mkdtemp(join(tmpdir(), 'neurovisor-bench-'));
      cleanup.push('bench directory', () => rm(dir, { recursive: true, force: true }));
      const channelPath = join(dir, 'channel');
      const vhostPath = join(dir, 'vhost');
      const copiesMemory = options.backend === 'copied';
      const threads = deviceThreads();
      let device: VsockDevice | undefined;
      if (options.backend === 'rust') await startRust(options, vhostPath, channelPath, cleanup);
      else {
        const host = createVsockHost();
        cleanup.push('vsock host', () => host.close());
        device = await host.attach({
          id: 'bench',
          guestCid: GUEST_CID,
          vhostSocketPath: vhostPath,
          channelPath,
          copiesMemory,
        });
      }
      const source = join(import.meta.dirname, 'fixtures', 'vsock-guest.c');
      const initrd = await buildInitrd(source, dir, 'guest');
      const memory = copiesMemory ? device : undefined;
      await bootGuest({ ...options, memory }, { dir, vhostPath, initrd }, cleanup);
      const thread = deviceThreads().find((id) => !threads.includes(id));
      const cpuMs = thread === undefined ? undefined : (): number => threadCpuMs(thread);
      const bench = new VsockBench(channelPath, cpuMs, cleanup);
      await bench.#traffic.warmUp();
      return bench;
    } catch (error) {
      await cleanup.run();
      throw error;
    }
  }

  round(): Promise<void> {
    return this.#traffic.round();
  }

  /** @returns MB per second */
  guestToHost(mebibytes: number): Promise<number> {
    return this.#traffic.guestToHost(mebibytes);
  }

  /** @returns MB per second */
  hostToGuest(mebibytes: number): Promise<number> {
    return this.#traffic.hostToGuest(mebibytes);
  }

  async close(): Promise<void> {
    await this.#cleanup.run();
  }
}

const TASKS = '/proc/self/task';

/** Threads of vsock devices in this process. */
function deviceThreads(): string[] {
  return readdirSync(TASKS).filter((id) => readFileSync(`${TASKS}/${id}/comm`, 'latin1').trim() === 'vsock');
}

/** Linux, Documentation/scheduler/sched-stats.rst: nanoseconds on a processor come first. */
function threadCpuMs(id: string): number {
  return Number(readFileSync(`${TASKS}/${id}/schedstat`, 'latin1').split(' ')[0]) / 1e6;
}

/** Connects to the guest's server. @throws VsockBenchError */
export async function dialChannel(channelPath: string): Promise<Socket> {
  const socket = connect(channelPath);
  socket.write(`CONNECT ${GUEST_PORT}\n`);
  await nextBytes(socket);
  return socket;
}

async function startRust(
  options: VsockBenchOptions,
  vhostPath: string,
  channelPath: string,
  cleanup: CleanupStack,
): Promise<void> {
  const { rustPath } = options;
  const subject = 'could not start vhost-device-vsock';
  if (rustPath === undefined)
    throw new VsockBenchError('backend_failed', subject, {
      remedy: 'Install it: cargo install vhost-device-vsock@0.3.0.',
    });
  const vm = `guest-cid=${GUEST_CID},socket=${vhostPath},uds-path=${channelPath}`;
  const child = spawn(rustPath, ['--vm', vm], { stdio: ['ignore', 'ignore', 'pipe'] });
  cleanup.push('vhost-device-vsock', () => end(child));
  let failure: unknown;
  child.on('error', (error) => {
    failure = error;
  });
  for (let waitedMs = 0; !existsSync(vhostPath) || !existsSync(channelPath); waitedMs += 20) {
    if (failure !== undefined || child.exitCode !== null || waitedMs > BACKEND_TIMEOUT_MS)
      throw new VsockBenchError('backend_failed', subject, { cause: failure });
    await sleep(20);
  }
}

/** Boots the guest until its server listens. @param more extra devices; `tapFd` is QEMU's descriptor 3 */
export async function bootGuest(
  options: Pick<VsockBenchOptions, 'kernelPath' | 'qemuPath' | 'accelerator'> & {
    /** Device that gets the memory of the VMM, which then does not share it. */
    readonly memory?: Pick<VsockDevice, 'setProcessMemory'> | undefined;
  },
  paths: { readonly dir: string; readonly vhostPath: string; readonly initrd: string },
  cleanup: CleanupStack,
  more: { readonly args: readonly string[]; readonly tapFd: number } | undefined = undefined,
): Promise<void> {
  const accelerator = options.accelerator ?? 'tcg';
  const share = options.memory === undefined ? 'on' : 'off';
  const file = `mem-path=${join(paths.dir, 'ram')},size=256M,share=${share}`;
  const memory = `memory-backend-file,id=mem,${file}`;
  const child = spawn(
    options.qemuPath ?? 'qemu-system-x86_64',
    [
      ['-M', 'pc,hpet=off,memory-backend=mem', '-object', memory, '-m', '256M'],
      ['-accel', accelerator, '-cpu', accelerator === 'kvm' ? 'host' : 'max,-avx,-avx2,-fma,-erms,-fsrm'],
      ['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-serial', 'stdio'],
      ['-kernel', options.kernelPath, '-initrd', paths.initrd],
      ['-append', 'console=ttyS0 quiet reboot=t panic=-1 acpi=noirq tsc=reliable'],
      ['-chardev', `socket,id=vsock,path=${paths.vhostPath}`],
      ['-device', 'vhost-user-vsock-pci,chardev=vsock,romfile='],
      ...(more?.args ?? []),
    ].flat(),
    { stdio: ['ignore', 'pipe', 'pipe', ...(more === undefined ? [] : [more.tapFd])] },
  );
  cleanup.push('QEMU', () => end(child));
  if (child.pid !== undefined) options.memory?.setProcessMemory(openProcessMemory(child.pid));
  let output = '';
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const collect = (bytes: Buffer): void => {
    output += bytes.toString();
    if (output.includes('LISTENING')) resolve();
  };
  child.stdout?.on('data', collect);
  child.stderr?.on('data', collect);
  const fail = (cause: unknown): void =>
    reject(new VsockBenchError('guest_silent', `could not boot the guest: ${output.slice(-500)}`, { cause }));
  child.on('error', fail);
  child.on('exit', () => fail(undefined));
  const timer = setTimeout(fail, BOOT_TIMEOUT_MS);
  try {
    await promise;
  } finally {
    clearTimeout(timer);
  }
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
  const exited = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGKILL');
  await exited;
}
