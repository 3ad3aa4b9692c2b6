/**
 * The TypeScript library.
 *
 *     import { Sandbox } from 'neurovisor';
 *
 *     await using sandbox = await Sandbox.create({ memoryMib: 512 });
 *     const result = await sandbox.runCode('print(1 + 1)');
 *     console.log(result.stdout);                            // "2\n"
 *
 * Without a model, in a test: `Cassette.replay`.
 *
 * With a daemon (`neurovisor serve`) the sandbox belongs to the daemon and outlives this process, unless it is killed or
 * times out. Without one it belongs to this process: the first `create` on a machine sets the machine up (minutes; pass
 * `onProgress` to watch). Sandboxes then share the vsock worker, the bridge and the model server, which end with the
 * last sandbox.
 */
import './cli/library/require-node.ts';
import type { Duplex } from 'node:stream';
import { copyIn } from './artifacts/transfer/copy-in.ts';
import { copyOut, type Received } from './artifacts/transfer/copy-out.ts';
import { IgnoreRules } from './artifacts/transfer/ignored.ts';
import type { TransferOptions } from './artifacts/transfer/transfer.ts';
import type { ChannelLimits, ChannelStats } from './base/channel.ts';
import { systemClock } from './base/clock.ts';
import { errorCode } from './base/errors.ts';
import { ignore } from './base/ignore.ts';
import type { DiskLimits } from './base/request/disk-limits.ts';
import { withAbort } from './cli/library/abort.ts';
import { collect, withoutCallbacks } from './cli/library/collect.ts';
import { filesOf } from './cli/library/files.ts';
import type { Host, HostOptions } from './cli/library/host.ts';
import { hosts } from './cli/library/hosts.ts';
import type {
  BufferOptions,
  CreateOptions,
  ListOptions,
  RunOptions,
  RunResult,
  TextOptions,
  UploadOptions,
} from './cli/library/options.ts';
import { forwardPort, type PortForward } from './cli/library/port-forward.ts';
import type { UsageRecord } from './inference/bridge/bridge.ts';
import type {
  EndedProcess,
  Guest,
  GuestFiles,
  GuestStats,
  KeptOutput,
  OutputOffsets,
  Process,
  ProcessExit,
  ProcessInfo,
} from './machine/guest/link.ts';
import { idOfSandbox } from './sandbox/contract/checks.ts';
import type {
  EventsOptions,
  ForkOptions,
  PauseTarget,
  ResumeOptions,
  SandboxInfo,
  SnapshotInfo,
  SnapshotOptions,
} from './sandbox/contract/control.ts';
import { type EndInfo, NO_EVIDENCE, type SandboxLogs } from './sandbox/contract/ending.ts';
import { SandboxError } from './sandbox/contract/errors.ts';
import type { TimedEvent } from './sandbox/contract/events.ts';
import type { NetworkOptions } from './sandbox/contract/network-spec.ts';
import type { PackageOptions } from './sandbox/contract/packages.ts';
import type { StartTimings } from './sandbox/contract/parts.ts';
import type { SecretOptions } from './sandbox/contract/secrets.ts';

export { Cassette, type CassetteReport } from './cli/library/cassette.ts';
export * from './cli/library/errors.ts';
export * from './cli/library/home.ts';
export { type StoredSecretInfo, secrets } from './cli/library/secrets.ts';
export type * from './cli/library/types.ts';
export { type VolumeInfo, volumes } from './cli/library/volumes.ts';

/** The cause of a sandbox's end, with its evidence. */
export type End = EndInfo;

interface Arguments {
  readonly args?: readonly string[];
}

export type Fork =
  | { readonly ok: true; readonly sandbox: Sandbox }
  | { readonly ok: false; readonly code: string; readonly message: string };

/**
 * One microVM. Ends with `kill`, its `timeoutMs`, or `await using`. Methods reject with a CodedError: a SandboxError
 * (`gone` if it has ended, `not_ready` if it is paused without `autoResume`), a GuestError of the operation in the guest,
 * or a ClientError of the connection to a daemon. After an abort they reject with the signal's reason, as `fetch` does.
 */
export class Sandbox {
  /** `[a-z0-9]{20}`. */
  readonly id: string;
  /** Files of the guest; relative paths start in the user's home. */
  readonly files: GuestFiles;
  /** Phases of the start, milliseconds; null: taken from a pool. */
  readonly timings: StartTimings | null;
  /** `kvm` or `tcg` (software emulation, many times slower). */
  readonly accelerator: string;
  readonly #host: Host;
  #end: End | undefined;
  #ended: Promise<End> | undefined;
  #lasting: Guest | undefined;

  private constructor(host: Host, info: SandboxInfo) {
    this.#host = host;
    this.id = info.id;
    const reader = () => host.use((control) => control.reader(info.id));
    this.files = filesOf(() => this.#guest(), reader);
    this.timings = info.timings;
    this.accelerator = info.accelerator;
  }

  /**
   * Starts a sandbox in the fastest way: from a pool, a template of its size, or a boot. It is ready when the promise
   * resolves.
   * @throws SandboxError `spec_invalid`, `start_failed`, `disk_full`, `busy`; ClientError `daemon_unreachable`; ConfigError; without a
   *   daemon, an error of the set-up (ImageError, RuntimeError, BridgeError, VmmError, JailError); the signal's reason
   */
  static async create(options: CreateOptions = {}): Promise<Sandbox> {
    const { daemon, signal, onProgress, log, cassette, ...request } = options;
    return await withAbort(signal, async () => {
      const host = await hosts.open({ daemon, signal, onProgress, log, cassette });
      const info = await host.use((control) => control.create(request, signal));
      return new Sandbox(host, info);
    });
  }

  /** Returns a sandbox by its id or name. @throws SandboxError `not_found`, `gone` */
  static async connect(idOrName: string, options: HostOptions = {}): Promise<Sandbox> {
    return await withAbort(options.signal, async () => {
      const host = await hosts.open(options);
      const info = await host.use(async (control) => control.get(await idOfSandbox(control, idOrName)));
      if (info.status === 'ended') throw gone(info.id, info.end);
      return new Sandbox(host, info);
    });
  }

  /** Lists sandboxes, newest first; without a daemon those of this process, and those paused to disk. */
  static async list(options: ListOptions = {}): Promise<readonly SandboxInfo[]> {
    const { name, status, metadata, ...where } = options;
    return await withAbort(where.signal, async () => {
      const host = await hosts.open(where);
      return await host.use((control) => control.list({ name, status, metadata }));
    });
  }

  /** Returns the present state, labels, size and times. */
  info(): Promise<SandboxInfo> {
    return this.#host.use((control) => control.get(this.id));
  }

  /** Resolves with the cause when nothing of the sandbox is left. Never rejects. */
  get ended(): Promise<End> {
    this.#ended ??= this.#untilEnded();
    return this.#ended;
  }

  /** Runs Python code, one process per call. */
  runCode(code: string, options: BufferOptions & Arguments): Promise<RunResult<Buffer>>;
  runCode(code: string, options?: TextOptions & Arguments): Promise<RunResult>;
  runCode(code: string, options: RunOptions & Arguments): Promise<RunResult<string | Buffer>>;
  async runCode(code: string, options: RunOptions & Arguments = {}): Promise<RunResult<string | Buffer>> {
    const { args = [], ...rest } = options;
    const guest = await this.#guest();
    return await collect((base) => guest.python({ ...base, script: { code }, args }), rest);
  }

  /** Runs a program with arguments, without a shell. */
  exec(argv: readonly string[], options: BufferOptions): Promise<RunResult<Buffer>>;
  exec(argv: readonly string[], options?: TextOptions): Promise<RunResult>;
  exec(argv: readonly string[], options: RunOptions): Promise<RunResult<string | Buffer>>;
  async exec(argv: readonly string[], options: RunOptions = {}): Promise<RunResult<string | Buffer>> {
    const guest = await this.#guest();
    return await collect((base) => guest.exec({ ...base, argv }), options);
  }

  /**
   * Copies a file or directory of this machine into the sandbox, as `neurovisor cp` does: into `target` if it is a
   * directory (default: the user's home), otherwise to that name.
   * @returns the path in the sandbox
   * @throws CopyError `invalid_source`, `guest_failed`
   */
  async upload(source: string, target = '~', options: UploadOptions = {}): Promise<string> {
    const { gitignore = false, ...rest } = options;
    return await withAbort(rest.signal, async () =>
      copyIn(await this.#guest(), source, target, rest, gitignore ? new IgnoreRules() : null),
    );
  }

  /**
   * Copies a file or directory of the sandbox here: into `target` if it is a directory (default: the current one),
   * otherwise to that name. Whatever the guest answers, nothing is written outside, and no link below it is followed.
   * @throws CopyError `invalid_source`, `hostile_name`, `in_the_way`, `too_large`, `disk_full`, `not_writable`;
   *   GuestError `not_found`
   */
  async download(source: string, target = '.', options: TransferOptions = {}): Promise<Received> {
    return await withAbort(options.signal, async () => copyOut(this, source, target, options));
  }

  /** Starts a long-running or interactive program and returns its streams. */
  async start(argv: readonly string[], options: RunOptions = {}): Promise<Process> {
    const { signal, ...rest } = withoutCallbacks(options);
    return await withAbort(signal, async () => (await this.#guest()).exec({ ...rest, argv }, signal));
  }

  /** Lists the running programs that were started here. */
  async processes(): Promise<readonly ProcessInfo[]> {
    return await (await this.#guest()).processes();
  }

  /** Lists the ended programs whose output and exit the sandbox still has, oldest first. */
  async endedProcesses(): Promise<readonly EndedProcess[]> {
    return await (await this.#guest()).endedProcesses();
  }

  /**
   * Attaches to the streams of a program that is detached, or was disconnected by a pause.
   * @param options.from offsets of the output that comes first: `Process.from` is above them if it is no longer kept
   */
  async attach(pid: number, options: { readonly from?: OutputOffsets } = {}): Promise<Process> {
    return await (await this.#guest()).attach(pid, options);
  }

  /** Returns the latest output of a program, at most 64 KiB of each stream, also after its end. */
  async output(
    pid: number,
    options: { readonly from?: OutputOffsets; readonly signal?: AbortSignal } = {},
  ): Promise<KeptOutput> {
    const { from, signal } = options;
    return await withAbort(signal, async () => (await this.#guest()).keptOutput(pid, from, signal));
  }

  /** Waits for the end of a program; it keeps its streams. An aborted `signal` leaves it running. */
  async wait(pid: number, options: { readonly signal?: AbortSignal } = {}): Promise<ProcessExit> {
    const { signal } = options;
    return await withAbort(signal, async () => (await (await this.#guest()).logs(pid, null, signal)).exit);
  }

  /** Opens a byte stream to a TCP port on the guest's loopback. */
  async connect(port: number): Promise<Duplex> {
    return await (await this.#guest()).connect(port);
  }

  /**
   * Listens at 127.0.0.1 and forwards connections to a TCP port of the guest, until `close` or the sandbox's end.
   * @param options.over `channel` (default): the guest's loopback. `nic`: the address of its network card
   * @param options.localPort default: the same number if it is free, else any free port
   * @throws ForwardError `port_in_use`, `not_permitted`, `listen_failed`
   */
  async forward(
    port: number,
    options: { readonly localPort?: number; readonly over?: 'channel' | 'nic' } = {},
  ): Promise<PortForward> {
    // Fails now if the sandbox has ended, or is paused without `autoResume`.
    await this.#guest();
    const forward = await forwardPort({
      guestPort: port,
      localPort: options.localPort ?? null,
      connect: async (to, signal) =>
        options.over === 'nic'
          ? await this.#host.use((control) => control.openPort(this.id, to, signal))
          : await (await this.#guest()).connect(to, signal),
    });
    void this.ended.then(() => forward.close());
    return forward;
  }

  async stats(): Promise<GuestStats> {
    return await (await this.#guest()).stats();
  }

  /** Traffic of the vsock channel. */
  channelStats(): Promise<ChannelStats> {
    return this.#host.use((control) => control.channelStats(this.id));
  }

  /** Replaces the rate limits of the channel; an omitted limit means none. */
  async setChannelLimits(channelLimits: ChannelLimits): Promise<void> {
    await this.#host.use((control) => control.update(this.id, { channelLimits }));
  }

  /** Replaces the limits of the disks; an omitted limit means none. */
  async setDiskLimits(diskLimits: DiskLimits): Promise<void> {
    await this.#host.use((control) => control.update(this.id, { diskLimits }));
  }

  /**
   * Replaces the network policy at once; forbidden connections are closed. Null: unplugs the network card.
   * @throws SandboxError `spec_invalid`, naming the rule; `network_unavailable`
   */
  async setNetwork(network: NetworkOptions | null): Promise<void> {
    await this.#host.use((control) => control.update(this.id, { network }));
  }

  /** Replaces the package policy, for requests that arrive from now on; null: no packages. @throws SandboxError `spec_invalid` */
  async setPackages(packages: PackageOptions | null): Promise<void> {
    await this.#host.use((control) => control.update(this.id, { packages }));
  }

  /**
   * Replaces all secrets: values that the guest can use but not read. Running programs keep the placeholder of a name.
   */
  async setSecrets(secrets: readonly SecretOptions[]): Promise<void> {
    await this.#host.use((control) => control.update(this.id, { secrets }));
  }

  /** Returns the last requests to the model, oldest first. */
  usage(): Promise<readonly UsageRecord[]> {
    return this.#host.use((control) => control.usage(this.id));
  }

  /** Returns the serial console and the VMM's log; after the end, too, except after `kill`. */
  logs(): Promise<SandboxLogs> {
    return this.#host.use((control) => control.logs(this.id));
  }

  /**
   * Yields memory events (`pressure`, `near_oom`, `oom`), the actions taken, and the end:
   *
   *     for await (const event of sandbox.events()) if (event.type === 'near_oom') …
   *
   * Stored events come first, then live ones. Leave the loop or abort the signal to stop.
   */
  async *events(options: EventsOptions = {}): AsyncGenerator<TimedEvent, void, undefined> {
    yield* await this.#host.use(async (control) => control.events(this.id, options));
  }

  /** Sets the timeout, counted from now; null: none. */
  async setTimeout(timeoutMs: number | null): Promise<void> {
    await this.#host.use((control) => control.update(this.id, { timeoutMs }));
  }

  /** Replaces the `metadata`. */
  async setMetadata(metadata: Readonly<Record<string, string>>): Promise<void> {
    await this.#host.use((control) => control.update(this.id, { metadata }));
  }

  /**
   * Pauses the sandbox; files, programs and their memory stay. To `memory` (default): the CPUs stop. To `disk`: the memory
   * is freed, connections end, and the sandbox outlives this process. To `disk-only`: the same, but only files stay; the
   * sandbox boots at `resume`.
   */
  async pause(options: { readonly to?: PauseTarget } = {}): Promise<void> {
    const { to = 'memory' } = options;
    await this.#host.use((control) => control.pause(this.id, to));
  }

  /** @param options.reboot boots from the disk instead; programs end */
  async resume(options: ResumeOptions = {}): Promise<void> {
    await this.#host.use((control) => control.resume(this.id, options));
  }

  /**
   * Saves the state for `create({ snapshot })`; with `diskOnly` without the memory, so that sandboxes boot from it. The
   * sandbox continues; its connections end.
   */
  snapshot(options: SnapshotOptions = {}): Promise<SnapshotInfo> {
    return this.#host.use((control) => control.snapshot(this.id, options));
  }

  /** Makes copies, each with its own identity and outcome. */
  async fork(options: Partial<ForkOptions> = {}): Promise<readonly Fork[]> {
    const results = await this.#host.use((control) => control.fork(this.id, { count: 1, ...options }));
    return results.map((one) => (one.ok ? { ok: true, sandbox: new Sandbox(this.#host, one.sandbox) } : one));
  }

  /** Ends the sandbox and removes every trace. Idempotent. */
  async kill(): Promise<End> {
    if (this.#end !== undefined) return this.#end;
    const { end } = await this.#host.use((control) => control.remove(this.id));
    this.#end = end ?? unknownEnd('stopped', '');
    return this.#end;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }

  async #guest(): Promise<Guest> {
    if (this.#end !== undefined) throw gone(this.id, this.#end);
    if (this.#lasting !== undefined) return this.#lasting;
    const guest = await this.#host.use((control) => control.guest(this.id));
    if (this.#host.guestsLast) this.#lasting = guest;
    return guest;
  }

  async #untilEnded(): Promise<End> {
    if (this.#end !== undefined) return this.#end;
    const { promise, resolve } = Promise.withResolvers<End>();
    let isOnDisk = false;
    const look = ({ end, status, pausedTo }: SandboxInfo): void => {
      isOnDisk = status === 'paused' && pausedTo !== 'memory';
      if (end !== null) resolve(end);
    };
    const ask = (): void => {
      this.info().then(look, (error: unknown) => {
        ignore(error, 'the sandbox is forgotten, or its daemon is gone');
        const code = errorCode(error);
        // The next interruption tells whether the daemon is gone.
        if (code === 'daemon_lost') return;
        if (code !== 'daemon_unreachable') {
          resolve(unknownEnd('stopped', 'the cause is no longer known'));
        } else if (!isOnDisk) {
          resolve(unknownEnd('host-lost', 'the daemon that held it does not answer'));
        }
      });
    };
    const stop = this.#host.onChange((info) => {
      if (info.id === this.id) look(info);
    });
    const stopInterruptions = this.#host.onInterruption(ask);
    // It may have ended before `onChange`.
    ask();
    this.#end = await promise;
    stopInterruptions();
    stop();
    return this.#end;
  }
}

function unknownEnd(cause: 'stopped' | 'host-lost', detail: string): End {
  return { cause, detail, atMs: systemClock.wall(), evidence: NO_EVIDENCE };
}

function gone(id: string, end: End | null): SandboxError {
  const because = end === null ? '' : `: ${end.cause}`;
  const options = end === null || end.detail === '' ? {} : { cause: end.detail };
  return new SandboxError('gone', `sandbox ${id} has ended${because}`, options);
}
