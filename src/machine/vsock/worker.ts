/**
 * The worker thread of all vsock devices: one epoll loop that blocks, so it never returns to the event loop of its
 * thread. Commands are fetched when the wake descriptor signals them; answers are posted.
 */
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { assert } from '../../base/assert.ts';
import { takeIgnored } from '../../base/ignore.ts';
import { EPOLL, Epoll } from '../../sys/epoll.ts';
import { EventSignaler } from '../../sys/event-signal.ts';
import { closeFd, drainEventFd } from '../../sys/fd.ts';
import { Device } from './device.ts';
import { SCRATCH_BYTES } from './limits.ts';
import type { Command, Report, WorkerSetup } from './messages.ts';
import { Scratch } from './scratch.ts';

assert(parentPort !== null, 'worker.ts runs as a worker thread');
const port = parentPort;
const { wakeFd } = workerData as WorkerSetup;

const epoll = new Epoll();
const signaler = new EventSignaler();
const scratch = new Scratch(SCRATCH_BYTES);
const devices = new Map<number, Device>();
const ready = new Set<Device>();
let isStopping = false;

const now = (): number => performance.now();
const report = (message: Report): void => port.postMessage(message);

epoll.add(wakeFd, EPOLL.in, {
  onEvents() {
    drainEventFd(wakeFd);
    for (let next = receiveMessageOnPort(port); next; next = receiveMessageOnPort(port)) obey(next.message as Command);
  },
});

while (!isStopping) {
  epoll.wait(timeoutMs());
  const nowMs = now();
  for (const device of devices.values()) if (device.nextTimeoutMs(nowMs) <= 0) ready.add(device);
  for (const device of [...ready]) {
    ready.delete(device);
    if (device.run(nowMs)) ready.add(device);
  }
  const counts = takeIgnored();
  if (counts !== undefined) report({ kind: 'ignored', counts });
}
for (const device of [...devices.values()]) device.detach();
epoll.close();
signaler.close();
port.close();

/** Rounded up: waking early would be a turn for nothing. */
function timeoutMs(): number {
  if (ready.size > 0) return 0;
  const nowMs = now();
  let wait = Number.POSITIVE_INFINITY;
  for (const device of devices.values()) wait = Math.min(wait, device.nextTimeoutMs(nowMs));
  return wait === Number.POSITIVE_INFINITY ? -1 : Math.min(Math.ceil(wait), 60_000);
}

function obey(command: Command): void {
  if (command.kind === 'stop') {
    isStopping = true;
    return;
  }
  if (command.kind === 'attach') {
    attach(command);
    return;
  }
  // A device that is gone has reported it; from then on the main thread answers for it.
  const device = devices.get(command.device);
  if (device === undefined) {
    if (command.kind === 'process-memory') closeFd(command.fd);
    return;
  }
  if (command.kind === 'stats') report({ kind: 'stats', request: command.request, stats: device.stats() });
  else if (command.kind === 'set-limits') device.setLimits(command.limits);
  else if (command.kind === 'process-memory') device.setProcessMemory(command.fd);
  else device.detach();
}

function attach(command: Command & { kind: 'attach' }): void {
  const key = command.device;
  const device = new Device({
    ...command,
    guestPorts: command.guestPorts === undefined ? undefined : new Set(command.guestPorts),
    epoll,
    signaler,
    scratch,
    discard: (fds) => report({ kind: 'discard', fds }),
    now,
    wake: (self) => ready.add(self),
    closed(self, closed) {
      devices.delete(key);
      ready.delete(self);
      report({ kind: 'closed', device: key, closed, stats: self.stats() });
    },
  });
  devices.set(key, device);
}
