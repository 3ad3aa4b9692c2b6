/**
 * The programs that clients have started, by sandbox and pid. A program continues when its client leaves; output
 * without a listener is dropped, as E2B does. Its end is kept for a while.
 */
import type { Clock } from '../../../base/clock.ts';
import { describeError } from '../../../base/errors.ts';
import { ignore } from '../../../base/ignore.ts';
import type { Guest, Process, ProcessExit } from '../../../machine/guest/guest.ts';
import { E2B_LIMITS } from '../limits.ts';
import { ConnectError } from './connect.ts';

export type ProgramEvent =
  | { readonly start: { readonly pid: number } }
  | { readonly data: { readonly [stream in 'stdout' | 'stderr' | 'pty']?: string } }
  | { readonly end: ProgramEnd };

export interface ProgramEnd {
  readonly exitCode: number;
  readonly exited: boolean;
  readonly status: string;
  readonly error?: string;
}

export const TIMED_OUT = Symbol('timed out');

export interface Listener {
  /** Takes an event; resolves when the listener wants the next one. */
  take(event: ProgramEvent): Promise<void>;
  /** Called if it took no event for too long while others wait; it gets no more. */
  onDropped(): void;
}

export interface Command {
  readonly cmd: string;
  readonly args: readonly string[];
  readonly envs: Readonly<Record<string, string>>;
  readonly cwd?: string;
}

export interface ProgramFacts {
  readonly isTerminal: boolean;
  readonly tag: string | null;
  /** False if it has no input. */
  readonly hasInput: boolean;
  /** `null` if it is too long to be kept, or was started by another process of ours. */
  readonly command: Command | null;
}

export class Program {
  readonly pid: number;
  readonly facts: ProgramFacts;
  readonly process: Process;
  readonly #clock: Clock;
  readonly #listeners = new Set<Listener>();
  /** Resolves at the program's end, after its output; rejects if the end is unknown. */
  readonly ended: Promise<ProgramEnd | typeof TIMED_OUT>;
  #hasExited = false;

  constructor(process: Process, facts: ProgramFacts, clock: Clock) {
    this.process = process;
    this.pid = process.pid;
    this.facts = facts;
    this.#clock = clock;
    const output = Promise.all([this.#forward(facts.isTerminal ? 'pty' : 'stdout'), this.#forward('stderr')]);
    this.ended = (async () => {
      const exit = await process.exit;
      this.#hasExited = true;
      await output;
      return exit.timedOut ? TIMED_OUT : endOf(exit);
    })();
    this.ended.catch((error: unknown) => ignore(error, 'told to those who listen'));
    process.stdin.on('error', (error) => ignore(error, 'the program has ended'));
  }

  /** If true, its pid may belong to another program. */
  get hasExited(): boolean {
    return this.#hasExited;
  }

  /** `listener` gets events from now on. Returns a function that stops it. @throws ConnectError `resource_exhausted` */
  listen(listener: Listener): () => void {
    if (this.#listeners.size >= E2B_LIMITS.listenersMax) {
      const message = `${E2B_LIMITS.listenersMax} clients listen to the process ${this.pid}`;
      throw new ConnectError('resource_exhausted', message);
    }
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async #forward(stream: 'stdout' | 'stderr' | 'pty'): Promise<void> {
    const source = stream === 'stderr' ? this.process.stderr : this.process.stdout;
    const { stdio, terminal } = E2B_LIMITS.chunkBytesMax;
    const size = stream === 'pty' ? terminal : stdio;
    try {
      for await (const bytes of source as AsyncIterable<Buffer>) {
        for (let at = 0; at < bytes.length; at += size) {
          const part = bytes.subarray(at, at + size).toString('base64');
          await this.#deliver({ data: { [stream]: part } });
        }
      }
    } catch (error) {
      ignore(error, 'the exit says why');
    }
  }

  /** Resolves when all listeners that were not dropped want the next event. */
  async #deliver(event: ProgramEvent): Promise<void> {
    const waiting = new Set(this.#listeners);
    const taken = [...waiting].map(async (listener) => {
      await listener.take(event);
      waiting.delete(listener);
    });
    const dropped = Promise.withResolvers<void>();
    const check = (): (() => void) =>
      this.#clock.after(E2B_LIMITS.listenerStallMs, () => {
        if (this.#listeners.size > waiting.size) {
          for (const listener of waiting) {
            this.#listeners.delete(listener);
            listener.onDropped();
          }
          dropped.resolve();
        } else {
          stop = check();
        }
      });
    let stop = check();
    await Promise.race([Promise.all(taken), dropped.promise]);
    stop();
  }
}

function endOf({ exitCode, signal }: ProcessExit): ProgramEnd {
  if (signal !== null) {
    const status = `signal: ${SIGNAL_WORDS[signal] ?? signal.toLowerCase()}`;
    return { exitCode: -1, exited: false, status, error: status };
  }
  const code = exitCode ?? -1;
  const status = `exit status ${code}`;
  return { exitCode: code, exited: true, status, ...(code === 0 ? {} : { error: status }) };
}

/** Names as in Go's os package. */
const SIGNAL_WORDS: Readonly<Record<string, string>> = {
  SIGKILL: 'killed',
  SIGTERM: 'terminated',
  SIGINT: 'interrupt',
  SIGHUP: 'hangup',
  SIGQUIT: 'quit',
  SIGABRT: 'aborted',
  SIGSEGV: 'segmentation fault',
  SIGPIPE: 'broken pipe',
};

type AttachingGuest = Pick<Guest, 'attach' | 'processes'>;

export class Programs {
  readonly #clock: Clock;
  /** Keys are `ID/PID`. */
  readonly #all = new Map<string, Program>();
  /** By the same key. A second attachment would take the streams from the first. */
  readonly #attaching = new Map<string, Promise<Program>>();
  /** Functions that cancel the removal of an ended program, by the same key. */
  readonly #timers = new Map<string, () => void>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  add(id: string, process: Process, facts: ProgramFacts): Program {
    const key = `${id}/${process.pid}`;
    this.#drop(key);
    const program = new Program(process, facts, this.#clock);
    this.#all.set(key, program);
    const forget = (): void => {
      if (this.#all.get(key) === program) this.#drop(key);
    };
    program.ended.then(
      () => {
        if (this.#all.get(key) !== program) return;
        this.#timers.get(key)?.();
        this.#timers.set(key, this.#clock.after(E2B_LIMITS.exitKeptMs, forget));
      },
      (error: unknown) => {
        ignore(error, `attach again: ${describeError(error)}`);
        forget();
      },
    );
    return program;
  }

  /**
   * Attaches to a program that this process does not hold. An ended program is kept for a while. @throws GuestError
   * `not_found`
   */
  async get(id: string, pid: number, guest: AttachingGuest): Promise<Program> {
    const known = this.find(id, pid);
    if (known?.hasExited === false) return known;
    // Another client may have started a program that reuses the ended one's pid.
    if (known !== undefined && !(await guest.processes()).some((one) => one.pid === pid)) {
      return known;
    }
    const key = `${id}/${pid}`;
    const attaching = this.#attaching.get(key) ?? this.#attach(id, pid, guest);
    this.#attaching.set(key, attaching);
    return await attaching.finally(() => this.#attaching.delete(key));
  }

  async #attach(id: string, pid: number, guest: AttachingGuest): Promise<Program> {
    const running = (await guest.processes()).find((one) => one.pid === pid);
    const process = await guest.attach(pid);
    const facts = { isTerminal: running?.pty ?? false, tag: running?.tag ?? null, hasInput: true, command: null };
    return this.add(id, process, facts);
  }

  /** Call when the sandbox has ended. */
  forget(id: string): void {
    for (const key of [...this.#all.keys()]) if (key.startsWith(`${id}/`)) this.#drop(key);
  }

  #drop(key: string): void {
    this.#timers.get(key)?.();
    this.#timers.delete(key);
    this.#all.delete(key);
  }

  /** Includes ended programs, for a while. */
  find(id: string, pid: number): Program | undefined {
    return this.#all.get(`${id}/${pid}`);
  }

  /** The newest program with the tag, ended or not. */
  tagged(id: string, tag: string): Program | undefined {
    const prefix = `${id}/`;
    return [...this.#all].filter(([key, { facts }]) => key.startsWith(prefix) && facts.tag === tag).at(-1)?.[1];
  }
}
