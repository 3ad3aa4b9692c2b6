/** A guest that has confirmed its identity: starts its operations and forwards its events. */

import { Duplex } from 'node:stream';
import type { Clock } from '../../base/clock.ts';
import { ignore } from '../../base/ignore.ts';
import { Listeners } from '../../base/listeners.ts';
import type { Dial } from './dial.ts';
import { GuestError } from './errors.ts';
import { ChannelFiles, type StartOperation } from './files.ts';
import type {
  EndedProcess,
  ExecSpec,
  Guest,
  GuestChange,
  GuestClosed,
  GuestEvent,
  GuestInfo,
  GuestStats,
  KeptOutput,
  OutputOffsets,
  Process,
  ProcessInfo,
  ProgramOutput,
  PythonSpec,
  RunOptions,
  SettleOptions,
  SignalName,
  TerminalSize,
} from './guest.ts';
import { GUEST_LIMITS } from './limits.ts';
import { Operation } from './operation.ts';
import { GuestProcess, type ProcessControl, readKept } from './process.ts';
import { guestError, readProcesses, readStarted, readStats, wallNanoseconds } from './protocol.ts';
import { Standby } from './standby.ts';

export class ConnectedGuest implements Guest {
  readonly info: GuestInfo;
  readonly files: ChannelFiles;
  readonly closed: Promise<GuestClosed>;
  readonly #dial: Dial;
  readonly #clock: Clock;
  readonly #closed = Promise.withResolvers<GuestClosed>();
  readonly #operations = new Set<Operation>();
  readonly #listeners = new Listeners<GuestEvent>();
  readonly #control: ProcessControl = {
    signal: (pid, signal) => this.signal(pid, signal),
    resize: (pid, size) => this.#resize(pid, size),
  };
  readonly #drop: () => void;
  readonly #standby: Standby;
  #isClosed = false;
  #isSuspended = false;

  /** @param drop closes the control connection */
  constructor(options: { dial: Dial; clock: Clock; info: GuestInfo; drop: () => void }) {
    this.#dial = options.dial;
    this.#clock = options.clock;
    this.info = options.info;
    this.#drop = options.drop;
    this.#standby = new Standby(options.dial, options.clock);
    this.closed = this.#closed.promise;
    this.files = new ChannelFiles(this.#start, options.clock);
  }

  async exec(spec: ExecSpec, signal?: AbortSignal): Promise<Process> {
    const { argv } = spec;
    const request = { op: 'exec', argv, ...runFields(spec) };
    return await this.#run(this.#start(`exec ${argv[0] ?? ''}`, request, { signal }), spec);
  }

  async python(spec: PythonSpec, signal?: AbortSignal): Promise<Process> {
    const { script, args = [], waitWarm = true } = spec;
    const fields = { op: 'python', args, waitWarm, ...runFields(spec) };
    const replyMsMax = waitWarm ? GUEST_LIMITS.warmReplyMsMax : GUEST_LIMITS.replyMsMax;
    if ('path' in script) {
      const what = `python ${script.path}`;
      return await this.#run(this.#start(what, { ...fields, path: script.path }, { signal, replyMsMax }), spec);
    }
    const body = typeof script.code === 'string' ? Buffer.from(script.code) : script.code;
    const what = `python ${script.name ?? '-c'}`;
    const request = { ...fields, name: script.name };
    return await this.#run(this.#start(what, request, { signal, body, replyMsMax }), spec);
  }

  async attach(
    pid: number,
    { from, signal }: { readonly from?: OutputOffsets; readonly signal?: AbortSignal } = {},
  ): Promise<Process> {
    return await this.#run(this.#start(`attach ${pid}`, { op: 'attach', pid, from }, { signal }), {});
  }

  async logs(pid: number, from: OutputOffsets | null, signal?: AbortSignal): Promise<ProgramOutput> {
    return await this.#run(this.#start(`logs ${pid}`, { op: 'logs', pid, from }, { signal }), {});
  }

  async keptOutput(pid: number, from = BEGIN, signal?: AbortSignal): Promise<KeptOutput> {
    const operation = this.#start(`logs ${pid}`, { op: 'logs', pid, from }, { signal });
    try {
      return await readKept(await this.#run(operation, {}), from);
    } finally {
      operation.destroy();
    }
  }

  async signal(pid: number, signal: SignalName): Promise<boolean> {
    try {
      await this.#ask(`signal ${pid}`, { op: 'signal', pid, signal });
      return true;
    } catch (error) {
      if (error instanceof GuestError && error.code === 'not_found') return false;
      throw error;
    }
  }

  async connect(port: number, signal?: AbortSignal): Promise<Duplex> {
    const operation = this.#start(`connect to port ${port}`, { op: 'tcp', port }, { signal });
    await operation.reply(() => ({ ok: true, value: null }));
    return rawStream(operation);
  }

  async stats(): Promise<GuestStats> {
    const operation = this.#start('stats', { op: 'stats' });
    const stats = await operation.reply(readStats);
    operation.destroy();
    return stats;
  }

  async settle(options: SettleOptions = {}, signal?: AbortSignal): Promise<void> {
    await this.#ask('settle', { op: 'settle', ...options }, { signal });
  }

  async update(change: GuestChange, signal?: AbortSignal): Promise<void> {
    const { wallMs, env, limits, network, authority } = change;
    const wallNs = wallMs === undefined ? undefined : wallNanoseconds(wallMs).toString();
    const fields = { op: 'update', wallNs, env, limits, network, authority };
    const standby = this.#standby.take();
    if (standby !== undefined) {
      try {
        await this.#ask('update', fields, { signal, dial: () => standby });
        return;
      } catch (error) {
        // The guest may just have closed the connection. Applying an update twice has the same effect as once.
        if (!(error instanceof GuestError && error.code === 'connection_lost')) throw error;
      }
    }
    await this.#ask('update', fields, { signal });
  }

  expectUpdate(): void {
    if (!this.#isClosed && !this.#isSuspended) this.#standby.open();
  }

  async processes(): Promise<readonly ProcessInfo[]> {
    return (await this.#listProcesses()).processes;
  }

  async endedProcesses(): Promise<readonly EndedProcess[]> {
    return (await this.#listProcesses()).ended;
  }

  async #listProcesses(): Promise<{ processes: ProcessInfo[]; ended: EndedProcess[] }> {
    const operation = this.#start('processes', { op: 'processes' });
    const listed = await operation.reply(readProcesses);
    operation.destroy();
    return listed;
  }

  events(listener: (event: GuestEvent) => void): () => void {
    return this.#listeners.listen(listener);
  }

  suspend(): void {
    this.#isSuspended = true;
    this.#standby.close();
  }

  close(): void {
    this.end({ reason: 'closed', detail: 'closed by the host' });
  }

  /** Called by the link with each event of the guest. */
  emit(event: GuestEvent): void {
    this.#listeners.emit(event);
  }

  /** Called by the link when the control connection has ended or must end. */
  end(closed: GuestClosed): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#standby.close();
    this.#drop();
    for (const operation of this.#operations) operation.destroy(operation.lostError());
    this.#closed.resolve(this.#isSuspended ? { ...closed, reason: 'suspended' } : closed);
  }

  readonly #start: StartOperation = (what, request, options = {}) => {
    if (this.#isClosed || this.#isSuspended) {
      throw guestError(this.#lostCode(), `${what}: the guest is gone`);
    }
    const operation = new Operation({
      dial: this.#dial,
      clock: this.#clock,
      lostCode: this.#lostCode,
      what,
      request,
      ...options,
    });
    this.#operations.add(operation);
    void operation.closed.then(() => this.#operations.delete(operation));
    return operation;
  };

  async #run(operation: Operation, { timeoutMs }: RunOptions): Promise<Process> {
    const started = await operation.reply(readStarted);
    const limit = timeoutMs === undefined ? null : { clock: this.#clock, ms: timeoutMs };
    return new GuestProcess(operation, this.#control, { ...started, limit });
  }

  async #resize(pid: number, size: TerminalSize): Promise<void> {
    await this.#ask(`resize ${pid}`, { op: 'resize', pid, size });
  }

  /** Sends a request whose answer has no fields. */
  async #ask(
    what: string,
    request: Record<string, unknown>,
    options: Parameters<StartOperation>[2] = {},
  ): Promise<void> {
    const operation = this.#start(what, request, options);
    try {
      await operation.reply(() => ({ ok: true, value: null }));
    } finally {
      operation.destroy();
    }
  }

  readonly #lostCode = (): 'connection_lost' | 'suspended' => (this.#isSuspended ? 'suspended' : 'connection_lost');
}

const BEGIN: OutputOffsets = { stdout: 0, stderr: 0 };

function runFields(options: RunOptions): Record<string, unknown> {
  const { env, cwd, user, stdin, pty, timeoutMs, outputBytesMax, detached, tag } = options;
  return {
    env,
    cwd,
    user,
    stdin,
    pty,
    // The guest counts whole milliseconds, and 0 means no limit.
    timeoutMs: timeoutMs === undefined ? undefined : Math.max(1, Math.ceil(timeoutMs)),
    outputBytesMax,
    detached,
    tag: tag?.slice(0, 256),
  };
}

/** Passes half-closes both ways; the loss of the connection destroys the stream. */
function rawStream(operation: Operation): Duplex {
  const stream = new Duplex({
    allowHalfOpen: true,
    highWaterMark: GUEST_LIMITS.streamBytesMax,
    read: () => operation.resume(),
    write: (chunk: Buffer, _encoding, done) => {
      void operation.sendRaw(chunk).then(() => done());
    },
    final: (done) => {
      operation.endWrite();
      done();
    },
    destroy: (error, done) => {
      operation.destroy();
      done(error);
    },
  });
  stream.on('error', (error) => ignore(error, "the stream's user gets it"));
  operation.begin('raw', {
    onBytes: (bytes) => {
      if (!stream.push(bytes)) operation.pause();
    },
    onEnd: (error) => {
      if (error === null) stream.push(null);
      else stream.destroy(error);
    },
  });
  void operation.closed.then(() => {
    // The guest closed its direction, and then ours broke: a writer must get an error.
    const cutOff = (): void => void stream.destroy(operation.lostError());
    if (stream.writableFinished) return;
    if (stream.readableEnded) cutOff();
    else stream.once('end', cutOff);
  });
  return stream;
}
