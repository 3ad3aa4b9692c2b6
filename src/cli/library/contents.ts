/** What a home keeps beside sandboxes, for commands and the library: a daemon's, or that of this process's home. */
import { homedir } from 'node:os';
import { resolve } from 'node:path';
import type { Config } from '../../base/config.ts';
import { errorCode } from '../../base/errors.ts';
import { resolveHome } from '../../base/home.ts';
import { ignore } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import type { Progress } from '../../base/progress.ts';
import type { Runtime } from '../../host/runtime/runtime.ts';
import type { HomeContents, LongWork } from '../../sandbox/contract/contents.ts';
import { openDaemonOnceReady } from './daemon.ts';

export interface ContentsOptions {
  /** Its `daemonUrl` names the daemon; null: the one of its home, or none. */
  readonly config: Config;
  /** True: fails without a daemon. Default false. */
  readonly needsDaemon?: boolean;
  readonly signal: AbortSignal;
  readonly progress: Progress;
  readonly log: Log;
  /** Called once if it has to wait for a daemon that starts or ends. */
  readonly onWait?: () => void;
}

export interface OpenedContents extends HomeContents, AsyncDisposable {
  /** Progress and cancellation of the caller. */
  readonly work: LongWork;
  /** A daemon at `daemonUrl`, which has no files of this machine. */
  readonly isElsewhere: boolean;
}

/** Starts no daemon. @throws ClientError: the daemon at `daemonUrl` does not answer, or none answers and one is needed */
export async function openContents(options: ContentsOptions): Promise<OpenedContents> {
  const { config, needsDaemon = false, progress, signal } = options;
  try {
    const daemon = await openDaemonOnceReady(config, options);
    const work = { progress, signal };
    const isElsewhere = config.daemonUrl !== null;
    return {
      ...(await daemon.contents()),
      work,
      isElsewhere,
      [Symbol.asyncDispose]: () => daemon[Symbol.asyncDispose](),
    };
  } catch (error) {
    if (errorCode(error) !== 'daemon_unreachable' || config.daemonUrl !== null || needsDaemon) throw error;
    const { isDaemonLocked } = await import('../../host/runtime/daemon-lock.ts');
    if (isDaemonLocked(resolveHome(config.home))) throw error;
  }
  return await openHere(options);
}

async function openHere({ config, signal, progress, log }: ContentsOptions): Promise<OpenedContents> {
  const { homeContents } = await import('../../host/contents/contents.ts');
  let runtime: Promise<Runtime> | undefined;
  const open = async (): Promise<Runtime> => {
    const { openRuntime } = await import('../../host/daemon/plane.ts');
    return await openRuntime({ config, progress, log, signal, withoutModel: true });
  };
  const contents = homeContents({
    config,
    log,
    progress,
    signal,
    runtime: () => {
      runtime ??= open();
      return runtime;
    },
  });
  return {
    ...contents,
    work: { progress, signal },
    isElsewhere: false,
    async [Symbol.asyncDispose]() {
      const opened = await runtime?.catch((error: unknown) => ignore(error, 'the work has failed with it'));
      await opened?.close();
    },
  };
}

/** The source of a model with its path complete: a daemon has another working directory. */
export function wholeSource(text: string): string {
  const [, transport = '', path = ''] = /^(oci:|file:(?:\/\/)?)(.*)$/s.exec(text) ?? [];
  if (transport !== '') return `${transport}${resolve(path)}`;
  const isPath = /^[./~]|\.gguf$/i.test(text);
  return isPath ? resolve(text.replace(/^~(?=\/|$)/, homedir())) : text;
}
