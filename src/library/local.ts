/**
 * The control plane of this process: opened by whoever needs it first, closed when nobody uses it and no
 * sandbox of it runs. One that is paused to disk needs none: the next use opens it again.
 */
import { silentLog } from '../base/log.ts';
import { silentProgress } from '../base/progress.ts';
import { readConfig } from '../config.ts';
import type { ControlPlane, SandboxInfo } from '../sandbox/control.ts';
import type { Host, HostOptions } from './host.ts';

interface Opened {
  readonly control: ControlPlane;
  close(): Promise<void>;
}

let opened: Promise<Opened> | undefined;
let closing: Promise<void> = Promise.resolve();
/** Calls that are under way. */
let calls = 0;
/** Ids of sandboxes that need this process. */
const running = new Set<string>();
const listeners = new Set<(info: SandboxInfo) => void>();

/** @param options of the first that opens it count */
export function localHost(options: Pick<HostOptions, 'signal' | 'onProgress' | 'log'>): Host {
  const use = async <T>(body: (control: ControlPlane) => Promise<T>): Promise<T> => {
    calls += 1;
    try {
      return await body((await open(options)).control);
    } finally {
      calls -= 1;
      await closeIfUnused();
    }
  };
  return {
    use,
    guestsLast: false,
    onChange: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

function open(options: Parameters<typeof localHost>[0]): Promise<Opened> {
  if (opened !== undefined) return opened;
  const opening = closing.then(() => start(options));
  opened = opening;
  opening.catch(() => {
    if (opened === opening) opened = undefined;
  });
  return opening;
}

async function start(options: Parameters<typeof localHost>[0]): Promise<Opened> {
  // Loaded only here: a daemon's client needs none of it.
  const { Runtime } = await import('../runtime/runtime.ts');
  const { openControlPlane } = await import('../runtime/control.ts');
  const { log = silentLog, signal = new AbortController().signal } = options;
  const config = readConfig(process.env);
  const progress = options.onProgress ?? silentProgress;
  const runtime = await Runtime.open({ config, progress, log, signal });
  try {
    const local = await openControlPlane(runtime, log);
    local.control.onChange(note);
    return {
      control: local.control,
      close: async () => {
        await local[Symbol.asyncDispose]();
        await runtime.close();
      },
    };
  } catch (error) {
    await runtime.close();
    throw error;
  }
}

function note(info: SandboxInfo): void {
  const needsUs =
    info.status !== 'ended' && !(info.status === 'paused' && info.pausedTo === 'disk');
  if (needsUs) running.add(info.id);
  else running.delete(info.id);
  for (const listener of listeners) listener(info);
  void closeIfUnused();
}

async function closeIfUnused(): Promise<void> {
  if (calls === 0 && running.size === 0 && opened !== undefined) {
    const last = opened;
    opened = undefined;
    closing = closing
      .then(() => last)
      .then(
        (one) => one.close(),
        () => undefined,
      );
  }
  if (opened === undefined) await closing;
}
