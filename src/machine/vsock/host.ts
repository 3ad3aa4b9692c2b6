/**
 * vsock devices for VMMs that speak vhost-user (QEMU, cloud-hypervisor), seen from the main thread.
 *
 *     main thread                      worker thread (one for all guests)
 *     createVsockHost ── commands ──►  epoll loop ─► Device per guest
 *     attach, stats, … ◄── reports ──      │ vhost-user socket ◄── VMM
 *                                          │ <channel>          ◄── host program: CONNECT <port>\n → OK <n>\n
 *                                          │ <channel>_<port>   ──► host program that serves guests
 *
 * Guest memory is mapped, and payload goes from the guest's rings to sockets and back by readv(2) and
 * writev(2) on that mapping: JavaScript never sees it. Or, with `copiesMemory`, each turn copies what it needs from and
 * to the VMM's process, which also works with memory that the VMM does not share. One stream of bytes per connection, as over TCP,
 * but without an address, a packet filter or a NIC: the socket that bytes come from identifies the guest.
 *
 * The layers: `vhost-user` takes memory and rings over from the VMM, `virtqueue` serves them,
 * in `mapped-ring` or `remote-ring`, `packet` is the header, `connection` the states and the credit, `muxer` what they mean together,
 * `to-host` and `to-guest` move bytes, `uds` is the host's end. Only `device`, `ring`, `uds`, `worker` and
 * this file touch the operating system.
 */
import { lstatSync, unlinkSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import type { ChannelLimits, ChannelStats } from '../../base/channel.ts';
import { errorCode } from '../../base/errors.ts';
import { addIgnored, tryOr } from '../../base/ignore.ts';
import { type Log, silentLog } from '../../base/log.ts';
import { modulePath } from '../../base/module-path.ts';
import { bucketLimitProblem } from '../../base/token-bucket.ts';
import { closeFd, closeInPool, createEventFd, type FileIdentity, signalEventFd } from '../../sys/fd.ts';
import { connectUnix, listenUnix } from '../../sys/socket.ts';
import type { DeviceClosed } from './device.ts';
import { VsockError } from './errors.ts';
import type { Command, Report, WorkerSetup } from './messages.ts';

export type { ChannelLimits, ChannelStats } from '../../base/channel.ts';
export type { BucketLimit } from '../../base/token-bucket.ts';
export type { DeviceClosed } from './device.ts';

export interface VsockDeviceSpec {
  /** For messages and logs. */
  readonly id: string;
  readonly guestCid: number;
  /** The device listens here; the VMM connects as vhost-user front end. ≤ 107 bytes. */
  readonly vhostSocketPath: string;
  /**
   * The device listens here for `CONNECT <port>\n`; a guest's connection to host port P goes to the listener at
   * `<channelPath>_<P>`. ≤ 96 bytes.
   */
  readonly channelPath: string;
  readonly limits?: ChannelLimits;
  /** Host ports that the guest may dial. Default: any with a listener. */
  readonly guestPorts?: readonly number[];
  /**
   * The file that the guest's memory must be, sealed against resizing by its maker. Default: any file, which requires
   * trust in the VMM: one under an attacker's control ends this process with memory that it truncates later.
   */
  readonly memory?: FileIdentity;
  /**
   * Never maps guest memory, but copies it from and to the VMM's process, which `setProcessMemory` names: for memory
   * that the VMM does not share, or a VMM that must not be able to end this process by truncating it. Default: false.
   */
  readonly copiesMemory?: boolean;
}

export interface VsockDevice {
  /** Replaces all limits; an omitted one is unlimited. @throws VsockError invalid_spec, device_closed */
  setLimits(limits: ChannelLimits): Promise<void>;
  /**
   * With `copiesMemory`, before the VMM connects: the memory of its process. Takes ownership of `fd` from
   * `openProcessMemory`. @throws VsockError device_closed
   */
  setProcessMemory(fd: number): void;
  /** Counters since the start; after the end, the final ones. */
  stats(): Promise<ChannelStats>;
  /** Resolves when the device is gone and its sockets are removed. Never rejects. */
  readonly closed: Promise<DeviceClosed>;
  /** Closes every connection and the device. Idempotent. */
  detach(): Promise<void>;
}

export interface VsockHost {
  /** Resolves when both sockets listen. @throws VsockError */
  attach(spec: VsockDeviceSpec): Promise<VsockDevice>;
  /** Detaches all devices and ends the worker. Idempotent. */
  close(): Promise<void>;
}

interface VsockHostOptions {
  readonly log?: Log;
}

/** The worker thread starts with the first device. It keeps the process alive only while one is attached. */
export function createVsockHost(options: VsockHostOptions = {}): VsockHost {
  return new Host(options.log ?? silentLog);
}

/** `_` and a port of ten digits must fit behind it (sun_path has 107 bytes). */
const CHANNEL_PATH_BYTES_MAX = 96;
const VHOST_PATH_BYTES_MAX = 107;
const CHANNEL_BACKLOG = 128;
const CID_MIN = 3;
const CID_MAX = 0xfffffffe;
const PORT_MAX = 0xfffffffe;

interface Thread {
  readonly worker: Worker;
  readonly wakeFd: number;
  readonly exited: Promise<void>;
}

class Host implements VsockHost {
  readonly #log: Log;
  readonly #devices = new Map<number, AttachedDevice>();
  readonly #requests = new Map<number, { device: number; answer: (stats: ChannelStats) => void }>();
  #thread: Thread | undefined;
  #lastKey = 0;
  #discarded: Promise<void> = Promise.resolve();
  #isClosed = false;

  constructor(log: Log) {
    this.#log = log;
  }

  async attach(spec: VsockDeviceSpec): Promise<VsockDevice> {
    if (this.#isClosed)
      throw new VsockError('host_closed', `could not attach vsock device ${spec.id}: the host is closed`);
    const problem = specProblem(spec);
    if (problem !== undefined)
      throw new VsockError('invalid_spec', `could not attach vsock device ${spec.id}: ${problem}`);
    const vhostFd = listen(spec.vhostSocketPath, 1);
    let channelFd: number;
    try {
      channelFd = listen(spec.channelPath, CHANNEL_BACKLOG);
    } catch (error) {
      closeFd(vhostFd);
      removeSocket(spec.vhostSocketPath);
      throw error;
    }
    this.#lastKey += 1;
    const device = new AttachedDevice(this.#lastKey, spec, this);
    this.#devices.set(device.key, device);
    this.send({
      kind: 'attach',
      device: device.key,
      guestCid: spec.guestCid,
      channelPath: spec.channelPath,
      vhostFd,
      channelFd,
      limits: spec.limits ?? {},
      guestPorts: spec.guestPorts,
      memory: spec.memory,
      copiesMemory: spec.copiesMemory ?? false,
    });
    return device;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    const thread = this.#thread;
    if (thread === undefined) return;
    this.send({ kind: 'stop' });
    await thread.exited;
  }

  /** Starts the thread if there is none. */
  send(command: Command): void {
    this.#thread ??= this.#start();
    this.#thread.worker.postMessage(command);
    signalEventFd(this.#thread.wakeFd);
    this.#keepAlive();
  }

  askStats(device: number): Promise<ChannelStats> {
    this.#lastKey += 1;
    const request = this.#lastKey;
    const { promise, resolve } = Promise.withResolvers<ChannelStats>();
    this.#requests.set(request, { device, answer: resolve });
    this.send({ kind: 'stats', device, request });
    return promise;
  }

  #start(): Thread {
    const wakeFd = createEventFd();
    const setup: WorkerSetup = { wakeFd };
    const worker = new Worker(modulePath('./worker.ts', import.meta.url), { workerData: setup, name: 'vsock' });
    // The thread blocks in epoll, so Node could not end it: it needs a command when the process exits.
    const stop = (): void => {
      worker.postMessage({ kind: 'stop' } satisfies Command);
      signalEventFd(wakeFd);
    };
    process.once('exit', stop);
    const { promise: exited, resolve } = Promise.withResolvers<void>();
    let failure = 'the worker thread ended';
    worker.on('message', (message: Report) => this.#receive(message));
    worker.on('error', (error: Error) => {
      failure = `the worker thread failed: ${error.message}`;
      this.#log.error('vsock worker failed', { error: String(error.stack) });
    });
    worker.on('exit', () => {
      process.off('exit', stop);
      closeFd(wakeFd);
      this.#thread = undefined;
      const closed: DeviceClosed = { reason: 'internal-error', detail: failure };
      for (const device of [...this.#devices.values()]) this.#ended(device, closed, NO_STATS);
      resolve();
    });
    return { worker, wakeFd, exited };
  }

  #receive(message: Report): void {
    if (message.kind === 'stats') {
      this.#requests.get(message.request)?.answer(message.stats);
      this.#requests.delete(message.request);
      return;
    }
    if (message.kind === 'discard') {
      for (const fd of message.fds) this.#discard(fd);
      return;
    }
    if (message.kind === 'ignored') {
      addIgnored(message.counts);
      return;
    }
    const device = this.#devices.get(message.device);
    if (device !== undefined) this.#ended(device, message.closed, message.stats);
  }

  /** One after the other, so that descriptors that are slow to close block at most one thread of Node's pool. */
  #discard(fd: number): void {
    this.#discarded = this.#discarded.then(() => closeInPool(fd));
  }

  #ended(device: AttachedDevice, closed: DeviceClosed, stats: ChannelStats): void {
    this.#devices.delete(device.key);
    removeSocket(device.spec.vhostSocketPath);
    removeSocket(device.spec.channelPath);
    const { id } = device.spec;
    if (closed.reason === 'protocol-error' || closed.reason === 'internal-error')
      this.#log.warn('vsock device closed', { id, reason: closed.reason, detail: closed.detail });
    device.end(closed, stats);
    for (const [request, { device: key, answer }] of this.#requests) {
      if (key !== device.key) continue;
      this.#requests.delete(request);
      answer(stats);
    }
    this.#keepAlive();
  }

  #keepAlive(): void {
    if (this.#devices.size > 0 || this.#isClosed) this.#thread?.worker.ref();
    else this.#thread?.worker.unref();
  }
}

const NO_STATS: ChannelStats = {
  bytesGuestToHost: 0,
  bytesHostToGuest: 0,
  connectionsOpened: 0,
  connectionsOpen: 0,
  connectionsRefused: 0,
  throttledMsGuestToHost: 0,
  throttledMsHostToGuest: 0,
  protocolErrors: 0,
};

class AttachedDevice implements VsockDevice {
  readonly key: number;
  readonly spec: VsockDeviceSpec;
  readonly closed: Promise<DeviceClosed>;
  readonly #host: Host;
  readonly #ended = Promise.withResolvers<DeviceClosed>();
  #lastStats: ChannelStats | undefined;

  constructor(key: number, spec: VsockDeviceSpec, host: Host) {
    this.key = key;
    this.spec = spec;
    this.#host = host;
    this.closed = this.#ended.promise;
  }

  async setLimits(limits: ChannelLimits): Promise<void> {
    const problem = limitsProblem(limits);
    const fault = `could not set the limits of vsock device ${this.spec.id}`;
    if (problem !== undefined) throw new VsockError('invalid_spec', `${fault}: ${problem}`);
    if (this.#lastStats !== undefined) throw new VsockError('device_closed', `${fault}: the device is closed`);
    this.#host.send({ kind: 'set-limits', device: this.key, limits });
    // The answer comes after the limits are in effect.
    await this.stats();
  }

  setProcessMemory(fd: number): void {
    if (this.#lastStats !== undefined) {
      closeFd(fd);
      const fault = `could not reach memory for vsock device ${this.spec.id}`;
      throw new VsockError('device_closed', `${fault}: the device is closed`);
    }
    this.#host.send({ kind: 'process-memory', device: this.key, fd });
  }

  async stats(): Promise<ChannelStats> {
    if (this.#lastStats !== undefined) return this.#lastStats;
    return await this.#host.askStats(this.key);
  }

  async detach(): Promise<void> {
    if (this.#lastStats === undefined) this.#host.send({ kind: 'detach', device: this.key });
    await this.closed;
  }

  /** Called once by the host. */
  end(closed: DeviceClosed, stats: ChannelStats): void {
    this.#lastStats = stats;
    this.#ended.resolve(closed);
  }
}

function specProblem(spec: VsockDeviceSpec): string | undefined {
  const { guestCid, vhostSocketPath, channelPath, guestPorts, limits } = spec;
  if (!(Number.isInteger(guestCid) && guestCid >= CID_MIN && guestCid <= CID_MAX))
    return `guestCid ${guestCid} is not in ${CID_MIN} … ${CID_MAX}`;
  const isPath = (path: string, max: number): boolean =>
    path !== '' && !path.includes('\0') && Buffer.byteLength(path) <= max;
  if (!isPath(vhostSocketPath, VHOST_PATH_BYTES_MAX))
    return `vhostSocketPath must have 1 … ${VHOST_PATH_BYTES_MAX} bytes`;
  if (!isPath(channelPath, CHANNEL_PATH_BYTES_MAX)) return `channelPath must have 1 … ${CHANNEL_PATH_BYTES_MAX} bytes`;
  const badPort = guestPorts?.find((port) => !(Number.isInteger(port) && port >= 0 && port <= PORT_MAX));
  if (badPort !== undefined) return `guest port ${badPort} is not in 0 … ${PORT_MAX}`;
  return limits === undefined ? undefined : limitsProblem(limits);
}

function limitsProblem(limits: ChannelLimits): string | undefined {
  for (const name of ['guestToHostBytes', 'hostToGuestBytes', 'connections'] as const) {
    const limit = limits[name];
    const problem = limit === undefined ? undefined : bucketLimitProblem(limit);
    if (problem !== undefined) return `${name}: ${problem}`;
  }
  return undefined;
}

/** Listens at `path`; a socket that a killed process left there is replaced. @throws VsockError */
function listen(path: string, backlog: number): number {
  if (lstatSync(path, { throwIfNoEntry: false })?.isSocket() === true) {
    const fd = connectUnix(path);
    if (fd >= 0) {
      closeFd(fd);
      throw new VsockError('path_in_use', `could not listen at ${path}: another process does`, {
        remedy: 'Stop that process, or choose another path.',
      });
    }
    removeSocket(path);
  }
  try {
    return listenUnix(path, backlog);
  } catch (cause) {
    const code = errorCode(cause) === 'EADDRINUSE' ? 'path_in_use' : 'listen_failed';
    const remedy = 'Check that the directory of the socket exists and can be written to.';
    throw new VsockError(code, `could not listen at ${path}`, { cause, remedy });
  }
}

function removeSocket(path: string): void {
  tryOr(undefined, 'a vsock socket path is already gone', () => unlinkSync(path));
}
