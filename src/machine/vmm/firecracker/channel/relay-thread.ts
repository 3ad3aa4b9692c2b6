/** The thread of all channels, seen from the main thread. */
import { Worker } from 'node:worker_threads';
import { modulePath } from '../../../../base/module-path.ts';
import { closeFd, createEventFd, signalEventFd } from '../../../../sys/fd.ts';
import { FdLedger } from './fd-ledger.ts';
import type { Command, RelaySetup, Report } from './messages.ts';

export interface RelayThread {
  /** Records the descriptors that go to the thread. */
  readonly ledger: FdLedger;
  post(command: Command): void;
  /** Whether the thread keeps the process from ending. */
  keepAlive(isOn: boolean): void;
}

/** @param ended called once, with the thread's descriptors closed. @param fault `null` if the thread was stopped */
export type StartRelayThread = (
  received: (report: Report) => void,
  ended: (fault: string | null) => void,
) => RelayThread;

export const startRelayThread: StartRelayThread = (received, ended) => {
  const ledger = new FdLedger();
  const wakeFd = createEventFd();
  const setup: RelaySetup = { wakeFd, ledger: ledger.shared };
  const worker = new Worker(modulePath('./relay-worker.ts', import.meta.url), { workerData: setup, name: 'channels' });
  let isStopped = false;
  let hasEnded = false;
  const post = (command: Command): void => {
    if (hasEnded) return;
    if (command.kind === 'stop') isStopped = true;
    worker.postMessage(command);
    signalEventFd(wakeFd);
  };
  const stop = (): void => post({ kind: 'stop' });
  stopAtExit(stop);
  let fault = 'it ended';
  worker.on('message', received);
  worker.on('error', (error: Error) => {
    fault = String(error.stack);
  });
  worker.on('exit', (status) => {
    hasEnded = true;
    stops.delete(stop);
    closeFd(wakeFd);
    ledger.closeAll();
    ended(isStopped && status === 0 ? null : fault);
  });
  return {
    ledger,
    post,
    keepAlive(isOn) {
      if (isOn) worker.ref();
      else worker.unref();
    },
  };
};

/** Stop functions of all running threads. */
const stops = new Set<() => void>();
let isListening = false;

/** A thread blocks in epoll, so Node could not end it: it needs a command when the process exits. */
function stopAtExit(stop: () => void): void {
  stops.add(stop);
  if (isListening) return;
  isListening = true;
  process.once('exit', () => {
    for (const each of stops) each();
  });
}
