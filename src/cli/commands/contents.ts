/** What a home keeps beside sandboxes: the daemon's if one runs or NEUROVISOR_URL names one, else this home's. */
import { homedir } from 'node:os';
import { resolve } from 'node:path';
import { errorCode } from '../../base/errors.ts';
import { resolveHome } from '../../base/home.ts';
import { ignore } from '../../base/ignore.ts';
import type { Runtime } from '../../host/runtime/runtime.ts';
import type { HomeContents, LongWork } from '../../sandbox/contract/contents.ts';
import type { Cli } from '../cli.ts';
import { reachDaemon } from '../daemon/reach.ts';

export interface OpenedContents extends HomeContents, AsyncDisposable {
  /** Progress and cancellation of the command. */
  readonly work: LongWork;
}

/** Starts no daemon. @throws ClientError: the daemon at NEUROVISOR_URL does not answer */
export async function openContents(cli: Cli): Promise<OpenedContents> {
  const work = { progress: cli.progress.report, signal: cli.cancelled };
  try {
    const daemon = await reachDaemon(cli);
    return { ...(await daemon.contents()), work, [Symbol.asyncDispose]: () => daemon[Symbol.asyncDispose]() };
  } catch (error) {
    if (errorCode(error) !== 'daemon_unreachable' || cli.config.daemonUrl !== null) throw error;
    const { isDaemonLocked } = await import('../../host/runtime/daemon-lock.ts');
    if (isDaemonLocked(resolveHome(cli.config.home))) throw error;
  }
  return await openHere(cli, work);
}

async function openHere(cli: Cli, work: LongWork): Promise<OpenedContents> {
  const { homeContents } = await import('../../host/contents/contents.ts');
  const { config, log } = cli;
  let runtime: Promise<Runtime> | undefined;
  const open = async (): Promise<Runtime> => {
    const { openRuntime } = await import('./open-runtime.ts');
    return await openRuntime(cli, { withoutModel: true, keepsProgress: true });
  };
  const contents = homeContents({
    config,
    log,
    ...work,
    runtime: () => {
      runtime ??= open();
      return runtime;
    },
  });
  return {
    ...contents,
    work,
    async [Symbol.asyncDispose]() {
      const opened = await runtime?.catch((error: unknown) => ignore(error, 'the command has failed with it'));
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
