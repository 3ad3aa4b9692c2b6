/**
 * The programs that clients have started, by sandbox and pid. A program lives on when its client goes; the output that
 * comes while nobody listens is dropped, as E2B does. Its end is kept for a while.
 */
import type { Clock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import type { Guest, Process, ProcessExit } from '../../guest/guest.ts';
import { E2B_LIMITS } from '../limits.ts';
import { ConnectError } from './connect.ts';

export type ProgramEvent =
  | { readonly start: { readonly pid: number } }
  | { readonly data: { readonly [stream in 'stdout' | 'stderr' | 'pty']?: string } }
  | { readonly end: ProgramEnd };

interface ProgramEnd {
  readonly exitCode: number;
  readonly exited: boolean;
  readonly status: string;
  readonly error?: string;
}

/** Takes an event; resolves when it wants the next one. */
export type Listener = (event: ProgramEvent) => Promise<void>;

export class Program {
  readonly pid: number;
  readonly isTerminal: boolean;
  readonly process: Process;
  readonly #listeners = new Set<Listener>();
  /** Resolves at the program's end, after its output; rejects if the end is unknown. */
  readonly ended: Promise<ProgramEnd>;

  constructor(process: Process, isTerminal: boolean) {
    this.process = process;
    this.pid = process.pid;
    this.isTerminal = isTerminal;
    const output = Promise.all([
      this.#forward(isTerminal ? 'pty' : 'stdout'),
      this.#forward('stderr'),
    ]);
    this.ended = (async () => {
      const exit = await process.exit;
      await output;
      // The client has given up by then, or is about to.
      if (exit.timedOut)
        throw new ConnectError('deadline_exceeded', 'the time of the call is over');
      return endOf(exit);
    })();
    this.ended.catch((error: unknown) => ignore(error, 'told to those who listen'));
    process.stdin.on('error', (error) => ignore(error, 'the program has ended'));
  }

  /** Calls `listener` with what comes from now on. Returns how to stop. */
  listen(listener: Listener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async #forward(stream: 'stdout' | 'stderr' | 'pty'): Promise<void> {
    const source = stream === 'stderr' ? this.process.stderr : this.process.stdout;
    try {
      for await (const bytes of source as AsyncIterable<Buffer>) {
        const event = { data: { [stream]: bytes.toString('base64') } };
        await Promise.all([...this.#listeners].map((listener) => listener(event)));
      }
    } catch (error) {
      ignore(error, 'the exit says why');
    }
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

/** As Go's os package names them. */
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

export class Programs {
  readonly #clock: Clock;
  /** `ID/PID`. */
  readonly #all = new Map<string, Program>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  add(id: string, process: Process, isTerminal: boolean): Program {
    const key = `${id}/${process.pid}`;
    const program = new Program(process, isTerminal);
    this.#all.set(key, program);
    const forget = (): void => {
      if (this.#all.get(key) === program) this.#all.delete(key);
    };
    program.ended.then(
      () => this.#clock.after(E2B_LIMITS.exitKeptMs, forget),
      (error: unknown) => {
        ignore(error, `attach again: ${describeError(error)}`);
        forget();
      },
    );
    return program;
  }

  /** Attaches to a program that this process does not hold. @throws GuestError `not_found` */
  async get(id: string, pid: number, guest: Guest): Promise<Program> {
    const known = this.#all.get(`${id}/${pid}`);
    if (known !== undefined) return known;
    const running = (await guest.processes()).find((one) => one.pid === pid);
    const process = await guest.attach(pid);
    return this.#all.get(`${id}/${pid}`) ?? this.add(id, process, running?.pty ?? false);
  }
}
