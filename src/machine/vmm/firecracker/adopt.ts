/**
 * Takes over a jailed VM whose owner was killed. Its output since then and its serial line are lost, and its exit
 * status will be unknown.
 */
import type { Clock } from '../../../base/clock.ts';
import { tryOr } from '../../../base/ignore.ts';
import { isRunning, startTicksOf } from '../../../sys/process-start.ts';
import type { Vm, VmExit, VmSpec } from '../driver.ts';
import { VmmError } from '../errors.ts';
import { ByteTail } from '../tail.ts';
import { ApiClient } from './api-client.ts';
import { FILES } from './config.ts';
import { type JailSpec, jailFolder } from './jail/jailer.ts';
import { endProcessesIn, processesIn, readOwner } from './jail/orphan.ts';
import { openJailPlace } from './jail/place.ts';
import type { Place } from './place.ts';
import { MetricsReader } from './process/metrics.ts';
import { PipeReader } from './process/pipe-reader.ts';
import type { VmmProcess } from './process/process.ts';

const LOOK_EVERY_MS = 100;
const LOG_TAIL_BYTES = 16 * 1024;

/**
 * @param spec the VM's original spec; its listeners must exist again
 * @param binary absolute, without symbolic links
 * @param prepare creates the listeners of its channel, once no other owner can have the VM
 * @returns the VM as it was left, running or paused
 * @throws VmmError `vm_gone` if there is no such VM, `vm_unsupported` if its owner lives, `vmm_timeout` if it hangs
 */
export async function adoptProcess(
  spec: VmSpec,
  binary: string,
  jail: JailSpec,
  clock: Clock,
  prepare: () => Promise<void>,
): Promise<{ place: Place; process: VmmProcess }> {
  const owner = await readOwner(`${jail.baseDir}/${jailFolder(binary, spec.id)}`);
  if (owner === undefined) throw gone(spec, 'it has no jail');
  if (isRunning(owner)) {
    throw new VmmError('vm_unsupported', `the VM ${spec.id} can't be adopted`, {
      cause: `its owner, process ${owner.pid}, is still running`,
    });
  }
  const { place, root, takeOver } = await openJailPlace(spec, binary, jail);
  const [pid] = await processesIn(root);
  const startTicks = pid === undefined ? undefined : startTicksOf(pid);
  if (pid === undefined || startTicks === undefined) throw gone(spec, 'its process has ended');
  try {
    await prepare();
    await takeOver();
    const api = new ApiClient(() => place.apiPath(), clock);
    // A process that does not answer is useless.
    await api.call({ method: 'GET', path: '/' });
    return { place, process: new AdoptedProcess({ pid, startTicks }, place, api, clock) };
  } catch (error) {
    // No other owner will come.
    await endProcessesIn(root);
    await place.release();
    throw error;
  }
}

class AdoptedProcess implements VmmProcess {
  readonly api: ApiClient;
  readonly metrics = new MetricsReader();
  readonly terminal = null;
  readonly exited: Promise<VmExit>;
  readonly pid: number;
  readonly #process: { readonly pid: number; readonly startTicks: string };
  readonly #clock: Clock;
  readonly #log = new ByteTail(LOG_TAIL_BYTES);
  readonly #pipes: readonly PipeReader[];
  #killed = false;

  constructor(
    process: { readonly pid: number; readonly startTicks: string },
    place: Place,
    api: ApiClient,
    clock: Clock,
  ) {
    this.api = api;
    this.pid = process.pid;
    this.#process = process;
    this.#clock = clock;
    this.#pipes = [
      new PipeReader(place.path(FILES.log), (bytes) => this.#log.push(bytes)),
      new PipeReader(place.path(FILES.metrics), (bytes) => this.metrics.push(bytes)),
    ];
    this.exited = this.#watch();
  }

  isAlive(): boolean {
    return isRunning(this.#process);
  }

  /** The serial line is empty: it went to the first owner. */
  get logs(): Vm['logs'] {
    return { console: new ByteTail(1), vmm: this.#log };
  }

  consoleTail(): string {
    return '';
  }

  async kill(): Promise<void> {
    if (this.isAlive()) {
      this.#killed = true;
      tryOr(undefined, 'the process has just ended', () => process.kill(this.pid, 'SIGKILL'));
    }
    await this.exited;
  }

  /** Polls for its end, since it is not a child of this process. */
  async #watch(): Promise<VmExit> {
    while (this.isAlive()) {
      await new Promise<void>((resolve) => this.#clock.after(LOOK_EVERY_MS, resolve));
    }
    this.api.close();
    for (const pipe of this.#pipes) pipe.finish();
    const cause = this.#killed ? 'killed' : 'vmm-crashed';
    const detail = this.#killed ? '' : 'the exit status of an adopted VM is unknown';
    return { cause, exitCode: null, signal: this.#killed ? 'SIGKILL' : null, detail };
  }
}

function gone(spec: VmSpec, cause: string): VmmError {
  return new VmmError('vm_gone', `the VM ${spec.id} can't be adopted`, { cause });
}
