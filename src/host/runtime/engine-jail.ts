/**
 * The jail of the built-in engine: llama.cpp reads prompts and grammars of hostile guests, so an attacker who takes it over
 * must find nothing. It is the jail of VMMs with another list of files and system calls:
 *
 *     read-only        Node, its libraries, this package and its dependencies, the model (`engine-files.ts`)
 *     read and write   nothing; with a GPU its devices and an empty /tmp
 *     network          none: the socket that the bridge connects to is passed in, already listening
 *     system calls     all but those that lead out (`policy/engine-x86_64.json`): what Node and drivers need changes
 *                      with each version, and a missing call would end the engine
 */
import { chmodSync, rmSync } from 'node:fs';
import { availableParallelism, totalmem } from 'node:os';
import type { Config } from '../../base/config.ts';
import type { Log } from '../../base/log.ts';
import { MIB } from '../../base/units.ts';
import type { EngineLaunch, LaunchedEngine } from '../../inference/engine/process.ts';
import type { Jailed } from '../../machine/jail/jail.ts';
import type { JailGap } from '../../machine/jail/open.ts';
import { compileProfile } from '../../machine/jail/seccomp/compile.ts';
import { closeFd } from '../../sys/fd.ts';
import { listenUnix } from '../../sys/socket.ts';
import { engineFiles, gpuDevices, groupOfDevices } from './engine-files.ts';
import { closeUnless, judgeGaps, modeOf, openConfiguredJail, readFilter, unjailable } from './jail.ts';

export interface EngineJail {
  readonly launch: EngineLaunch;
  readonly description: string;
  readonly gaps: readonly JailGap[];
  /** Whether the jail has a GPU's devices and driver. */
  readonly hasGpu: boolean;
  /** Call it after the engine's end. */
  close(): Promise<void>;
}

export interface EngineJailOptions {
  readonly config: Pick<Config, 'jail' | 'jailUids' | 'gpu'>;
  /** Private to this user. */
  readonly cacheDir: string;
  readonly log: Log;
  /** Names its control group, `[a-z0-9]+`. */
  readonly id: string;
  /** Private to this engine. */
  readonly dir: string;
  /** For diagnosis: accepts a jail with gaps, even with `enforce`. */
  readonly acceptsGaps?: boolean;
}

/** Share of the host's memory that the engine may use; the rest is for the host and its sandboxes. */
const MEMORY_SHARE = 0.9;
const TASKS_MAX = 512;
/** For connections of the bridge, model files and devices. */
const OPEN_FILES_MAX = 2_048;
const BACKLOG = 128;
/** Only this user may connect. */
const SOCKET_MODE = 0o600;
/** Variables that mean nothing in the jail. */
const OUTSIDE = /^(PATH|HOME|TMPDIR|XDG_|NODE_PATH)/;

/**
 * @returns `null` with `--jail off`
 * @throws RuntimeError `jail_unavailable`
 */
export async function openEngineJail(options: EngineJailOptions): Promise<EngineJail | null> {
  const { config, log } = options;
  if (config.jail === 'off') return null;
  try {
    const gpu = config.gpu === 'cpu' ? [] : gpuDevices();
    const filter = await readFilter('engine', modeOf(config), 'the engine');
    const jail = await openConfiguredJail(config, {
      cacheDir: options.cacheDir,
      programFiles: [],
      filter: compileProfile(filter, 'x86_64').program,
      log,
      probeArgs: [],
      deviceGid: groupOfDevices(gpu),
    });
    const { acceptsGaps = false } = options;
    await closeUnless(jail, () => acceptsGaps || judgeGaps(jail.gaps, config.jail, log, 'the engine'));
    const launch: EngineLaunch = async ({ argv, modelPath, socketPath, environment }) => {
      const inside = Object.entries(environment).filter(([name]) => !OUTSIDE.test(name));
      const given = environment['LD_LIBRARY_PATH'] ?? '';
      const { files, libraryPath } = await engineFiles(argv[0] ?? '', modelPath, { gpu, libraryPath: given });
      const listening = listenUnix(socketPath, BACKLOG);
      try {
        chmodSync(socketPath, SOCKET_MODE);
        const jailed = await jail.start({
          id: options.id,
          argv,
          stdio: ['pipe', 'pipe', 'pipe', listening],
          dir: options.dir,
          files,
          memoryMib: Math.floor((totalmem() * MEMORY_SHARE) / MIB),
          cpus: availableParallelism(),
          // All sandboxes wait for the engine: it must not be limited like one of them.
          hasCpuLimit: false,
          tasksMax: TASKS_MAX,
          openFilesMax: OPEN_FILES_MAX,
          env: {
            ...Object.fromEntries(inside),
            HOME: gpu.length === 0 ? '/' : '/tmp',
            ...(libraryPath === '' ? {} : { LD_LIBRARY_PATH: libraryPath }),
          },
          hasDriver: gpu.length > 0,
        });
        return await launchedOf(jailed);
      } catch (error) {
        rmSync(socketPath, { force: true });
        throw error;
      } finally {
        closeFd(listening);
      }
    };
    const { description, gaps } = jail;
    return { launch, description, gaps, hasGpu: gpu.length > 0, close: () => jail.close() };
  } catch (error) {
    throw unjailable(error);
  }
}

async function launchedOf(jailed: Jailed): Promise<LaunchedEngine> {
  const { child } = jailed;
  const ended = new Promise((resolve) => child.once('exit', resolve));
  try {
    const pid = await jailed.pid;
    return { child, pid, kill: () => jailed.kill(), release: () => jailed.release() };
  } catch (error) {
    await ended;
    await jailed.release();
    throw error;
  }
}
