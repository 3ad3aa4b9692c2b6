/**
 * The thread of all channels: one epoll loop that blocks, so it never returns to the event loop of its thread. Commands
 * are fetched when the wake descriptor says so.
 */
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { assert } from '../../../../base/assert.ts';
import { takeIgnored } from '../../../../base/ignore.ts';
import { drainEventFd } from '../../../../sys/fd.ts';
import { FdLedger } from './fd-ledger.ts';
import { LoopClock } from './loop-clock.ts';
import type { Command, RelaySetup, Report } from './messages.ts';
import { RelayLoop } from './relay-loop.ts';

assert(parentPort !== null, 'relay-worker.ts runs as a worker thread');
const port = parentPort;
const { wakeFd, ledger } = workerData as RelaySetup;

const report = (message: Report): void => port.postMessage(message);
const clock = new LoopClock();
const loop = new RelayLoop({ clock, ledger: new FdLedger(ledger), report });
let isStopping = false;

loop.watch(wakeFd, {
  onEvents() {
    drainEventFd(wakeFd);
    for (let next = receiveMessageOnPort(port); next; next = receiveMessageOnPort(port)) {
      const command = next.message as Command;
      if (command.kind === 'stop') isStopping = true;
      else loop.obey(command);
    }
  },
});

while (!isStopping) {
  loop.turn(clock.waitMs());
  clock.runDue();
  const counts = takeIgnored();
  if (counts !== undefined) report({ kind: 'ignored', counts });
}
loop.close();
port.close();
