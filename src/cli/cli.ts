/** The context of a command: streams, configuration, progress, signals. */
import type { Readable, Writable } from 'node:stream';
import { type Config, LOG_LEVELS } from '../base/config.ts';
import { errorCode } from '../base/errors.ts';
import { ignore } from '../base/ignore.ts';
import type { Log, LogFields } from '../base/log.ts';
import type { Progress } from '../base/progress.ts';
import { plain, plainJson } from '../base/text/plain.ts';
import { exitOfSignal, type HandledSignal } from './exit-status.ts';

export interface CliStreams {
  readonly stdin: Readable & Partial<NodeJS.ReadStream>;
  readonly stdout: NodeJS.WriteStream;
  readonly stderr: NodeJS.WriteStream;
}

export interface ProgressView {
  readonly report: Progress;
  /** Takes the live lines off the screen. */
  close(): void;
}

/** Time for a program to end after a signal, before it is killed or its sandbox removed. */
export const SIGNAL_GRACE_MS = 3_000;

export class Cli {
  readonly stdin: CliStreams['stdin'];
  readonly stdout: NodeJS.WriteStream;
  readonly stderr: NodeJS.WriteStream;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly config: Config;
  /** `-o json`: stdout holds one JSON object and nothing else. */
  readonly json: boolean;
  readonly progress: ProgressView;
  readonly log: Log;
  /**
   * The log of this process's control plane. A command reports what happens to its one sandbox itself, so warnings about
   * it are shown only if NEUROVISOR_LOG asks for a level.
   */
  readonly planeLog: Log;
  readonly #aborter = new AbortController();
  #signals: (HandledSignal | 'SIGPIPE')[] = [];
  #signalHandler: ((signal: HandledSignal) => void) | undefined;
  #interruptGraceMs: number | null = null;
  #endHandler: (() => void) | undefined;
  #stopGrace: () => void = () => undefined;
  #isOutputClosed = false;
  #endsWithOutput = true;

  constructor(options: {
    streams: CliStreams;
    env: Readonly<Record<string, string | undefined>>;
    config: Config;
    progress: ProgressView;
    json: boolean;
  }) {
    this.stdin = options.streams.stdin;
    this.stdout = options.streams.stdout;
    this.stderr = options.streams.stderr;
    this.env = options.env;
    this.config = options.config;
    this.json = options.json;
    this.progress = options.progress;
    const { logLevel } = options.config;
    this.log = lineLog(this.stderr, logLevel);
    const isAsked = (options.env['NEUROVISOR_LOG'] ?? '') !== '';
    this.planeLog = lineLog(this.stderr, isAsked ? logLevel : 'error');
    for (const stream of [this.stdout, this.stderr]) {
      stream.on('error', (error) => {
        ignore(error, 'the reader of our output left');
        if (errorCode(error) === 'EPIPE') this.#handleClosedOutput();
      });
    }
  }

  /** Aborts when the user interrupts this command. */
  get cancelled(): AbortSignal {
    return this.#aborter.signal;
  }

  /** True once the reader of our output has closed it (`| head`), which ends the command. */
  get isOutputClosed(): boolean {
    return this.#isOutputClosed;
  }

  /** Exit status of the last signal; null: no signal. */
  get signalStatus(): number | null {
    const last = this.#signals.at(-1);
    return last === undefined ? null : exitOfSignal(last);
  }

  /** Exit status after SIGTERM or SIGHUP, which ask this command to end, whatever its program makes of them. */
  get terminationStatus(): number | null {
    const signal = this.#signals.find((one) => one === 'SIGTERM' || one === 'SIGHUP');
    return signal === undefined ? null : exitOfSignal(signal);
  }

  /**
   * Handles the first signal instead of stopping the command.
   * @param interruptGraceMs delay from Ctrl-C until the command stops anyway; null: only at a second signal. SIGTERM
   *   and SIGHUP always stop it after `SIGNAL_GRACE_MS`.
   */
  onSignal(handler: (signal: HandledSignal) => void, interruptGraceMs: number | null): void {
    this.#signalHandler = handler;
    this.#interruptGraceMs = interruptGraceMs;
  }

  /** Call this when the program has ended: Ctrl-C that it has handled ends nothing more, and the next one this command. */
  stopForwardingSignals(): void {
    this.#signalHandler = undefined;
    this.#stopGrace();
  }

  /** Sets what runs when the command must stop: second signal, end of the grace period, closed output. */
  onEnd(handler: () => void): void {
    this.#endHandler = handler;
  }

  /** Continues when the reader of our output has left, as a daemon must. */
  ignoreClosedOutput(): void {
    this.#endsWithOutput = false;
  }

  handleSignal(signal: HandledSignal): void {
    this.#signals.push(signal);
    const isFirst = this.#signals.length === 1;
    if (!isFirst || this.#signalHandler === undefined) {
      this.#endAll();
      return;
    }
    this.#signalHandler(signal);
    const graceMs = signal === 'SIGINT' ? this.#interruptGraceMs : SIGNAL_GRACE_MS;
    if (graceMs === null) return;
    const timer = setTimeout(() => this.#endAll(), graceMs).unref();
    // SIGTERM and SIGHUP end the command in time, whatever is left to do.
    if (signal === 'SIGINT') this.#stopGrace = () => clearTimeout(timer);
  }

  /**
   * Waits for daemon work that cannot be canceled; Ctrl-C stops the wait, not the work.
   * @throws DOMException AbortError at Ctrl-C
   */
  async unlessCancelled<T>(work: Promise<T>): Promise<T> {
    const cancelled = Promise.withResolvers<never>();
    const end = (): void => {
      if (!this.json && !this.#isOutputClosed)
        this.stderr.write('neurovisor: interrupted; the daemon may still complete the request\n');
      cancelled.reject(this.cancelled.reason);
    };
    if (this.cancelled.aborted) end();
    this.cancelled.addEventListener('abort', end, { once: true });
    try {
      return await Promise.race([work, cancelled.promise]);
    } finally {
      this.cancelled.removeEventListener('abort', end);
      work.catch((error: unknown) => ignore(error, 'already reported, or no longer awaited'));
    }
  }

  printJson(value: unknown): void {
    this.stdout.write(`${plainJson(value, 2)}\n`);
  }

  /** As SIGPIPE ends other programs. */
  #handleClosedOutput(): void {
    if (!this.#endsWithOutput || this.#isOutputClosed) return;
    this.#isOutputClosed = true;
    this.#signals.push('SIGPIPE');
    this.#endAll();
  }

  #endAll(): void {
    this.#aborter.abort(new DOMException('interrupted', 'AbortError'));
    this.#endHandler?.();
  }
}

/** One line per message on stderr. */
function lineLog(stream: Writable, level: (typeof LOG_LEVELS)[number]): Log {
  const write = (at: (typeof LOG_LEVELS)[number]) => (message: string, fields?: LogFields) => {
    if (LOG_LEVELS.indexOf(at) > LOG_LEVELS.indexOf(level)) return;
    const details = Object.entries(fields ?? {}).map(([name, value]) => ` ${name}=${value}`);
    stream.write(`neurovisor ${at}: ${plain(`${message}${details.join('')}`)}\n`);
  };
  return { error: write('error'), warn: write('warn'), info: write('info'), debug: write('debug') };
}
