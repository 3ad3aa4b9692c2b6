/** The QEMU process: its control connection, serial line, stderr tail, and exit. */
import type { ChildProcess } from 'node:child_process';
import { constants } from 'node:os';
import { Duplex, PassThrough } from 'node:stream';
import type { Clock } from '../../../base/clock.ts';
import { errorCode } from '../../../base/errors.ts';
import { ignore } from '../../../base/ignore.ts';
import { isPidAlive } from '../alive.ts';
import { childEnd, drain } from '../child-end.ts';
import type { Vm, VmExit } from '../driver.ts';
import { VmmError } from '../errors.ts';
import type { Launched } from '../launch.ts';
import { ByteTail } from '../tail.ts';
import { QMP_FD, SERIAL_FD } from './args.ts';
import type { HeldSockets } from './held.ts';
import { QmpClient, type QmpEvent } from './qmp.ts';

export const CONSOLE_TAIL_BYTES = 64 * 1024;
export const STDERR_TAIL_BYTES = 4 * 1024;

/** What a VM needs of its process. */
export type QemuParts = Pick<
  QemuProcess,
  'qmp' | 'pid' | 'terminal' | 'exited' | 'isAlive' | 'logs' | 'consoleTail' | 'kill'
>;

export class QemuProcess {
  readonly qmp: QmpClient;
  readonly terminal: { readonly input: Duplex; readonly output: PassThrough } | null;
  /** Resolves when the process is gone and its output has been read. Never rejects. */
  readonly exited: Promise<VmExit>;
  readonly #launched: Launched;
  readonly #child: ChildProcess;
  #pid: number | null = null;
  readonly #serialTail = new ByteTail(CONSOLE_TAIL_BYTES);
  readonly #stderr = new ByteTail(STDERR_TAIL_BYTES);
  #spawnError: Error | undefined;
  #launchError: unknown;
  #guestReason: string | undefined;
  #killed = false;

  /**
   * @param launched with pipes at stderr, `QMP_FD` and `SERIAL_FD`
   * @param held our ends of its sockets, in place of those pipes
   */
  constructor(launched: Launched, clock: Clock, interactive: boolean, held: HeldSockets | null = null) {
    const { child } = launched;
    this.#launched = launched;
    this.#child = child;
    launched.pid.then(
      (pid) => {
        this.#pid = pid;
      },
      (error: unknown) => {
        this.#launchError = error;
      },
    );
    const stderr = held?.stderr ?? child.stderr;
    stderr?.on('error', (error) => ignore(error, 'the end of the process is reported'));
    stderr?.on('data', (bytes: Buffer) => this.#stderr.push(bytes));
    this.qmp = new QmpClient(held?.qmp ?? socket(child, QMP_FD), clock);
    this.qmp.onEvent((event) => this.#onEvent(event));
    const serial = held?.serial ?? socket(child, SERIAL_FD);
    serial.on('error', (error) => ignore(error, 'the serial line broke'));
    this.terminal = interactive ? makeTerminal(serial) : null;
    // Always read, so that a guest that floods its console blocks nothing.
    serial.on('data', (bytes: Buffer) => this.#serialTail.push(bytes));
    this.exited = this.#watch(serial, clock).finally(() => held?.stderr.destroy());
  }

  /** Known once the process has greeted. */
  get pid(): number | null {
    return this.#pid;
  }

  /** Resolves when the process runs with all its limits. @throws the launch's failure */
  async launched(): Promise<void> {
    this.#pid = await this.#launched.pid;
  }

  isAlive(): boolean {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return false;
    return isPidAlive(this.#pid);
  }

  consoleTail(): string {
    return this.#serialTail.text();
  }

  get logs(): Vm['logs'] {
    return { console: this.#serialTail, vmm: this.#stderr };
  }

  /** Display text: the last lines of stderr. */
  stderrTail(): string {
    return this.#stderr.text().trim();
  }

  /** Resolves when the process is gone. Idempotent. */
  async kill(): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      this.#killed = true;
      this.#launched.kill();
    }
    await this.exited;
  }

  /** The error of a failed start, once `exited` has resolved. */
  startFailure(exit: VmExit): VmmError {
    const code = errorCode(this.#spawnError) === 'ENOENT' ? 'vmm_missing' : 'vmm_start_failed';
    const how = exit.signal === null ? `it ended with status ${exit.exitCode}` : `it got ${exit.signal}`;
    const said = exit.detail === '' ? how : `${how}: ${exit.detail}`;
    return new VmmError(code, 'QEMU could not be started', {
      cause: this.#spawnError ?? this.#launchCause(exit) ?? said,
    });
  }

  /** The launch's failure, unless QEMU left a message. */
  #launchCause(exit: VmExit): unknown {
    return exit.detail === '' ? this.#launchError : undefined;
  }

  #onEvent(event: QmpEvent): void {
    this.#guestReason = guestReason(event) ?? this.#guestReason;
  }

  async #watch(serial: Duplex, clock: Clock): Promise<VmExit> {
    const child = this.#child;
    await childEnd(child, (error) => {
      this.#spawnError = error;
    });
    // Its last output is still in the sockets: the reason of its end, and a panic on the console.
    if (this.terminal !== null) finishTerminal(serial, this.terminal.output);
    await drain([this.qmp.closed, streamClosed(serial)], clock);
    serial.destroy();
    this.qmp.close();
    return this.#exit();
  }

  #exit(): VmExit {
    const { exitCode, signalCode } = endOf(this.#child);
    // QEMU's status is 0 for a guest's shutdown and for SIGTERM; its event distinguishes them.
    const byGuest = this.#guestReason !== undefined && exitCode === 0;
    const cause = byGuest ? 'guest-shutdown' : this.#killed ? 'killed' : 'vmm-crashed';
    const log = this.stderrTail();
    const detail = byGuest ? `${this.#guestReason}` : log;
    return { cause, exitCode, signal: signalCode, detail, log };
  }
}

const REASON_LENGTH_MAX = 64;

/** Why the guest shuts down, if the event says that it does. */
export function guestReason({ name, data }: QmpEvent): string | undefined {
  if (name !== 'SHUTDOWN' || data['guest'] !== true) return undefined;
  return String(data['reason']).slice(0, REASON_LENGTH_MAX);
}

/** A jail's parent process reports the VMM's signal as a status; see `Launched`. */
function endOf(child: ChildProcess): { exitCode: number | null; signalCode: string | null } {
  const { exitCode, signalCode } = child;
  const number = (exitCode ?? 0) - SIGNAL_STATUS;
  const signal = Object.entries(constants.signals).find(([, value]) => value === number);
  return signal === undefined ? { exitCode, signalCode } : { exitCode: null, signalCode: signal[0] };
}

const SIGNAL_STATUS = 128;

/** Node's "pipes" beyond fd 2 are socket pairs, as QEMU's socket chardev needs. */
function socket(child: ChildProcess, fd: number): Duplex {
  const stream = child.stdio[fd];
  // Missing if the process could not be spawned.
  return stream instanceof Duplex ? stream : new PassThrough().end();
}

/** While `output` is not read, the guest's serial line and the tail block. */
function makeTerminal(serial: Duplex): { input: Duplex; output: PassThrough } {
  const output = new PassThrough();
  serial.pipe(output, { end: false });
  return { input: serial, output };
}

/** Sends the remaining output to the terminal, read or not; a socket's buffer bounds it. */
function finishTerminal(serial: Duplex, output: PassThrough): void {
  serial.unpipe(output);
  serial.on('data', (bytes: Buffer) => output.write(bytes));
  serial.resume();
  // The stream may have closed before the end of the process.
  void streamClosed(serial).then(() => output.end());
}

function streamClosed(stream: Duplex): Promise<void> {
  if (stream.closed) return Promise.resolve();
  return new Promise((resolve) => stream.once('close', () => resolve()));
}
