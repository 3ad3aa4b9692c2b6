/** A program in the guest, as node streams over its operation. */
import { Readable, Writable } from 'node:stream';
import type { Clock } from '../../base/clock.ts';
import { awaitOr, ignore } from '../../base/ignore.ts';
import type { GuestError } from './errors.ts';
import { FRAME, type Frame } from './framing.ts';
import type {
  KeptOutput,
  OutputOffsets,
  Process,
  ProcessExit,
  ProgramOutput,
  SignalName,
  TerminalSize,
} from './guest.ts';
import { GUEST_LIMITS } from './limits.ts';
import type { Operation } from './operation.ts';
import { guestError, parseExitFrame } from './protocol.ts';

/** Requests of a process on other connections. */
export interface ProcessControl {
  signal(pid: number, signal: SignalName): Promise<unknown>;
  resize(pid: number, size: TerminalSize): Promise<unknown>;
}

/**
 * The connection is paused while a stream holds `GUEST_LIMITS.streamBytesMax`, which eventually blocks the program:
 * read both streams, or `resume()` the one you don't need. A destroyed stream discards its data.
 */
export class GuestProcess implements Process {
  readonly pid: number;
  readonly warm: boolean;
  readonly from: OutputOffsets | undefined;
  readonly to: OutputOffsets | undefined;
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly stderr: Readable;
  readonly exit: Promise<ProcessExit>;
  readonly #operation: Operation;
  readonly #control: ProcessControl;
  readonly #exit = Promise.withResolvers<ProcessExit>();
  readonly #full = new Set<Readable>();
  #over = false;
  #stopTimer: () => void = () => undefined;

  constructor(
    operation: Operation,
    control: ProcessControl,
    started: {
      readonly pid: number;
      readonly warm: boolean;
      readonly from?: OutputOffsets | undefined;
      readonly to?: OutputOffsets | undefined;
      /** The program's timeout, which the guest enforces first; `null` without one. */
      readonly limit: { readonly clock: Clock; readonly ms: number } | null;
    },
  ) {
    this.#operation = operation;
    this.#control = control;
    this.pid = started.pid;
    this.warm = started.warm;
    this.from = started.from;
    this.to = started.to;
    this.exit = this.#exit.promise;
    this.exit.catch((error: unknown) => ignore(error, 'the caller of exit gets it'));
    this.stdout = this.#output();
    this.stderr = this.#output();
    this.stdin = this.#input();
    operation.begin('frames', { onFrame: (frame) => this.#frame(frame), onEnd: (error) => this.#end(error) });
    const { limit } = started;
    if (limit !== null) this.#limit(limit.clock, limit.ms, limit.ms + GUEST_LIMITS.overdueMs);
  }

  /** Enforces the timeout if the guest hangs: drops the connection, which ends the program once the guest runs. */
  #limit(clock: Clock, limitMs: number, inMs: number): void {
    if (this.#over) return;
    this.#stopTimer = clock.after(inMs, () => {
      // The exit may be waiting behind unread output.
      if (this.#full.size > 0) {
        this.#limit(clock, limitMs, GUEST_LIMITS.overdueMs);
        return;
      }
      this.#finish({
        exitCode: null,
        signal: 'SIGKILL',
        timedOut: true,
        truncated: false,
        oomKilled: false,
        oomVictim: null,
        durationMs: limitMs,
      });
      this.#operation.destroy();
    });
  }

  async resize(size: TerminalSize): Promise<void> {
    if (this.#over) return;
    await awaitOr(undefined, 'the process ended before the resize', () => this.#control.resize(this.pid, size));
  }

  kill(signal: SignalName = 'SIGKILL'): void {
    if (this.#over) return;
    this.#control
      .signal(this.pid, signal)
      .catch((error: unknown) => ignore(error, 'the process ended before the signal'));
  }

  #output(): Readable {
    const stream: Readable = new Readable({
      highWaterMark: GUEST_LIMITS.streamBytesMax,
      read: () => this.#drained(stream),
      destroy: (error, done) => {
        this.#drained(stream);
        done(error);
      },
    });
    stream.on('error', (error) => ignore(error, 'the reader of the stream gets it, and exit'));
    return stream;
  }

  #drained(stream: Readable): void {
    if (this.#full.delete(stream) && this.#full.size === 0) this.#operation.resume();
  }

  #input(): Writable {
    const stream = new Writable({
      highWaterMark: GUEST_LIMITS.streamBytesMax,
      decodeStrings: true,
      write: (chunk: Buffer, _encoding, done) => {
        void this.#operation.send(FRAME.stdin, chunk).then(() => done());
      },
      final: (done) => {
        void this.#operation.sendEnd(FRAME.stdin).then(() => done());
      },
    });
    stream.on('error', (error) => ignore(error, 'the program no longer reads its input'));
    return stream;
  }

  #frame(frame: Frame): void {
    if (this.#over) return;
    if (frame.kind === FRAME.control) {
      const parsed = parseExitFrame(frame.payload);
      if (parsed.ok) this.#finish(parsed.value);
      else this.#operation.destroy(guestError('protocol_error', `exit: ${parsed.reason}`));
      return;
    }
    const stream = frame.kind === FRAME.stdout ? this.stdout : this.stderr;
    if (frame.payload.length === 0 || stream.destroyed) return;
    if (!stream.push(frame.payload)) {
      this.#full.add(stream);
      this.#operation.pause();
    }
  }

  #finish(exit: ProcessExit): void {
    this.#over = true;
    this.#stopTimer();
    this.stdout.push(null);
    this.stderr.push(null);
    this.stdin.destroy();
    // The guest closes the connection; resume, so that its end arrives.
    this.#operation.resume();
    this.#operation.endWrite();
    this.#exit.resolve(exit);
  }

  /** The connection ended; without an exit frame, the program's end is unknown. */
  #end(error: GuestError | null): void {
    if (this.#over) return;
    this.#over = true;
    this.#stopTimer();
    const reason = error ?? this.#operation.lostError();
    this.#exit.reject(reason);
    this.stdout.destroy(reason);
    this.stderr.destroy(reason);
    this.stdin.destroy();
  }
}

/** Reads what the program had written when it answered, at most what an agent keeps. @throws GuestError */
export async function readKept(process: ProgramOutput, asked: OutputOffsets): Promise<KeptOutput> {
  const { from = asked, to = from } = process;
  const read = async (name: 'stdout' | 'stderr'): Promise<Buffer> => {
    const wanted = Math.min(to[name] - from[name], GUEST_LIMITS.keptBytesMax);
    const chunks: Buffer[] = [];
    let bytes = 0;
    // Destroys the stream: later output is of no interest.
    if (wanted > 0) {
      for await (const chunk of process[name] as AsyncIterable<Buffer>) {
        chunks.push(chunk);
        bytes += chunk.length;
        if (bytes >= wanted) break;
      }
    }
    process[name].destroy();
    return Buffer.concat(chunks).subarray(0, Math.max(0, wanted));
  };
  const [stdout, stderr] = await Promise.all([read('stdout'), read('stderr')]);
  const end = { stdout: from.stdout + stdout.length, stderr: from.stderr + stderr.length };
  return { from, to: end, stdout, stderr };
}
