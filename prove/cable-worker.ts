/** The thread of a cable: copies frames between two TAPs. */
import { workerData } from 'node:worker_threads';
import { EPOLL, Epoll } from '../src/sys/epoll.ts';
import { read, write } from '../src/sys/fd.ts';
import { allocateNative } from '../src/sys/memory.ts';

export interface CableEnds {
  readonly a: number;
  readonly b: number;
}

/** A frame with its virtio-net header; without offloads none is longer than an MTU. */
const FRAME_BYTES_MAX = 65_536;
/** How often the thread checks whether it should end. */
const WAIT_MS = 50;

const frame = allocateNative(FRAME_BYTES_MAX);
const { a, b } = workerData as CableEnds;
const epoll = new Epoll();

/** Drops a frame that the other end has no room for, like a real cable. */
function carry(from: number, to: number): void {
  for (;;) {
    const bytes = read(from, frame.address, FRAME_BYTES_MAX);
    if (bytes <= 0) return;
    write(to, frame.address, bytes);
  }
}

epoll.add(a, EPOLL.in, { onEvents: () => carry(a, b) });
epoll.add(b, EPOLL.in, { onEvents: () => carry(b, a) });
const turn = (): void => {
  epoll.wait(WAIT_MS);
  setImmediate(turn);
};
turn();
