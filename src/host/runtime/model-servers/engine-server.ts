/** One model in an engine of its own, in its jail. The first request starts it, and the next one after it ended. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { sleep, systemClock } from '../../../base/clock.ts';
import type { Config } from '../../../base/config.ts';
import { describeError } from '../../../base/errors.ts';
import { newSandboxId } from '../../../base/ids.ts';
import { ignore } from '../../../base/ignore.ts';
import type { Log } from '../../../base/log.ts';
import { namesIn } from '../../../base/names-in.ts';
import type { UpstreamTarget } from '../../../inference/bridge/upstream/address.ts';
import { askHealth, type EngineHealth } from '../../../inference/engine/health.ts';
import { type Engine, startEngine } from '../../../inference/engine/process.ts';
import type { Workspace } from '../../../sandbox/contract/parts.ts';
import { type EngineJail, openEngineJail } from '../engine-jail.ts';
import { makeWorkspace } from '../workspace.ts';

/** File name in each engine's directory. */
const ENGINE_SOCKET = 'engine.sock';
const ENGINES_ASKED_MAX = 16;

/** The running engines of a home, of this process and of others, that respond. */
export async function runningEngines(runDir: string): Promise<EngineHealth[]> {
  const sockets = (await namesIn(runDir))
    .map((id) => join(runDir, id, ENGINE_SOCKET))
    .filter((path) => existsSync(path));
  const asked = await Promise.all(sockets.slice(0, ENGINES_ASKED_MAX).map(askHealth));
  return asked.filter((health) => health !== null);
}

export interface EnginePlace {
  readonly config: Config;
  readonly runDir: string;
  readonly cacheDir: string;
  readonly log: Log;
}

export interface EngineServerOptions extends EnginePlace {
  readonly name: string;
  readonly modelId: string;
  /** Path of a GGUF file. Called at each start. */
  readonly modelPath: () => string;
  /** Called before a start; call the returned function once the model is loaded or loading has failed. */
  readonly makeRoom?: (modelPath: string) => Promise<() => void>;
}

export class EngineServer {
  /** Time of the last request on the system's clock; −Infinity if there was none. */
  askedAtMs = Number.NEGATIVE_INFINITY;
  readonly #options: EngineServerOptions;
  #starting: Promise<Engine> | undefined;
  /** The engine that accepts requests. */
  #current: Engine | undefined;
  /** Resolves once nothing is left of the last process. */
  #removed: Promise<void> = Promise.resolve();
  /** The GPU had no memory for the model, so later engines compute on the CPU. */
  #isGpuFull = false;
  /** The minimum of an engine, until it has reported its own. */
  #slots = 2;

  constructor(options: EngineServerOptions) {
    this.#options = options;
  }

  /** Whether a process is running that no request has to wait for. */
  get isStarted(): boolean {
    return this.#current !== undefined;
  }

  /** Starts the engine if needed. @throws EngineError, RuntimeError `jail_unavailable` */
  async target(): Promise<UpstreamTarget> {
    this.askedAtMs = systemClock.now();
    this.#starting ??= this.#begin();
    const engine = await this.#starting;
    const { name, config } = this.#options;
    return {
      name,
      socketPath: engine.socketPath,
      models: [engine.modelId],
      modelOwner: 'neurovisor',
      slots: config.upstreamSlots ?? this.#slots,
    };
  }

  /** Whether the engine has loaded its model and has no request. Does not wait for a start. */
  async isIdle(): Promise<boolean> {
    const { socketPath } = this.#current ?? {};
    if (socketPath === undefined || !(await hasNoRequest(socketPath))) return false;
    // A request that has just been given a slot may be on its way.
    await sleep(ARRIVAL_MS);
    return await hasNoRequest(socketPath);
  }

  /** Ends the process; the next request starts another one. */
  async stop(): Promise<void> {
    const starting = this.#starting;
    this.#starting = undefined;
    this.#current = undefined;
    const engine = await starting?.catch((error: unknown) => {
      ignore(error, 'told to who asked for the start');
      return undefined;
    });
    await engine?.stop();
    await this.#removed;
  }

  #begin(): Promise<Engine> {
    const starting = this.#removed.then(() => this.#start());
    starting.then(
      (engine) => {
        if (this.#starting === starting) this.#current = engine;
      },
      () => {
        // The next request tries again: the cause, for example low memory, may be temporary.
        if (this.#starting === starting) this.#starting = undefined;
      },
    );
    return starting;
  }

  #forget(engine: Engine): void {
    if (this.#current !== engine) return;
    this.#current = undefined;
    this.#starting = undefined;
  }

  async #start(): Promise<Engine> {
    const { config, modelId, modelPath, log, runDir, cacheDir, makeRoom } = this.#options;
    const path = modelPath();
    const releaseRoom = await makeRoom?.(path);
    // A directory like a sandbox's, so that it is reclaimed the same way after a kill.
    const id = newSandboxId();
    const workspace = await makeWorkspace(runDir, id);
    let jail: EngineJail | null = null;
    try {
      jail = await openEngineJail({ config, cacheDir, log, id, dir: workspace.dir });
      const engine = await startEngine({
        modelPath: path,
        modelId,
        socketPath: join(workspace.dir, ENGINE_SOCKET),
        gpu: this.#isGpuFull ? 'cpu' : config.gpu,
        clock: systemClock,
        log,
        ...(jail === null ? {} : { launch: jail.launch }),
      });
      engine.ready
        .then(
          ({ slots }) => {
            this.#slots = slots;
          },
          (error: unknown) => ignore(error, 'each request reports it'),
        )
        .finally(() => releaseRoom?.());
      this.#removed = engine.exited
        .then(async (error) => {
          if (error?.code === 'gpu_out_of_memory') {
            this.#isGpuFull = true;
            log.warn('the GPU has no memory for the model; its next engine computes on the CPU');
          }
          this.#forget(engine);
          await remove(workspace, jail);
        })
        .catch((error: unknown) => {
          log.warn('could not remove what the engine left', { error: describeError(error) });
        });
      await workspace.recordVmm(engine.pid);
      if (jail?.hasGpu === true && config.gpu === 'auto' && !this.#isGpuFull) warnWithoutGpu(engine, log);
      return engine;
    } catch (error) {
      releaseRoom?.();
      await remove(workspace, jail);
      throw error;
    }
  }
}

/** The paths that a GPU driver needs vary, so the jail may lack some. */
function warnWithoutGpu(engine: Engine, log: Log): void {
  const check = async (): Promise<void> => {
    if ((await engine.ready).gpu !== 'cpu') return;
    const remedy = 'try --jail off, or another model server, if `neurovisor doctor` finds a GPU';
    log.warn('the engine computes without the GPU of this host', { remedy });
  };
  check().catch((error: unknown) => ignore(error, 'the engine reports it'));
}

async function remove(workspace: Workspace, jail: EngineJail | null): Promise<void> {
  await jail?.close();
  await workspace.remove();
}

/** Time for a request to get from a slot of the bridge to the engine. */
const ARRIVAL_MS = 500;

/** An engine that does not respond may be computing. */
async function hasNoRequest(socketPath: string): Promise<boolean> {
  const health = await askHealth(socketPath);
  return health?.setup != null && health.running === 0 && health.waiting === 0;
}
