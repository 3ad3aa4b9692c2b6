/** Open descriptors and received bytes of this process, for tests that look for leaks. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import type { Socket } from 'node:net';

/** All bytes so far; `socket` is never paused. */
export function collect(socket: Socket): { text: () => string; bytes: () => number; ended: () => boolean } {
  const parts: Buffer[] = [];
  let hasEnded = false;
  socket.on('data', (part) => parts.push(part));
  socket.on('end', () => {
    hasEnded = true;
  });
  socket.on('close', () => {
    hasEnded = true;
  });
  socket.on('error', () => undefined);
  return {
    text: () => Buffer.concat(parts).toString(),
    bytes: () => parts.reduce((sum, part) => sum + part.length, 0),
    ended: () => hasEnded,
  };
}

/** Descriptors of this process with the kind of their files. */
export const openFds = (): string[] =>
  readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return [`${fd} ${readlinkSync(`/proc/self/fd/${fd}`).replace(/\d+\]?$/, '')}`];
    } catch (error) {
      void error;
      return [];
    }
  });
/** Mappings of simulated guest memory. */
export const guestMappings = (): number =>
  readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((line) => line.includes('memfd:guest')).length;
