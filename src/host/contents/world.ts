import type { Home } from '../../base/home.ts';
import type { Log } from '../../base/log.ts';
import type { LongWork } from '../../sandbox/contract/contents.ts';
import { SandboxError } from '../../sandbox/contract/errors.ts';
import type { Runtime } from '../runtime/runtime.ts';
import type { SetupContext } from '../runtime/setup.ts';

export interface ContentsWorld {
  readonly home: Home;
  readonly quotaBytes: number;
  readonly log: Log;
  /** The VMs that make images and templates; called when the first is needed. */
  readonly runtime: () => Promise<Runtime>;
  /** For work that reports to `work`; without it, short work. */
  context(work?: LongWork): SetupContext;
}

/** @throws SandboxError `forbidden`: a caller elsewhere must not learn what files the host has */
export function requireHostFiles({ readsHost = true }: LongWork, source: string): void {
  if (readsHost) return;
  throw new SandboxError('forbidden', `${source.slice(0, 200)} is on the machine of the daemon`, {
    cause: 'a daemon reads files of its machine only for requests at its socket',
    remedy: 'name one of a registry, or run the command on that machine without NEUROVISOR_URL',
  });
}
