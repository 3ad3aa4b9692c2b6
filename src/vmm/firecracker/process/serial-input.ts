/**
 * What is typed at the serial line. Firecracker takes its stdin only from a terminal or a pipe, and Node makes
 * socket pairs: so a named pipe, which loses its name at once.
 */
import { closeSync, constants, openSync, unlinkSync } from 'node:fs';
import { Socket } from 'node:net';
import { ignore } from '../../../base/ignore.ts';
import { makeFifo } from '../../../sys/fifo.ts';

export class SerialInput {
  /** The end for stdin; valid until `handedOver`. */
  readonly fd: number;
  readonly writable: Socket;

  /** @param path of nothing yet, on a filesystem of ours. @throws SyscallError */
  constructor(path: string) {
    makeFifo(path);
    try {
      this.fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
      const ours = openSync(path, constants.O_WRONLY | constants.O_NONBLOCK);
      this.writable = new Socket({ fd: ours, readable: false, writable: true });
    } finally {
      unlinkSync(path);
    }
    this.writable.on('error', (error) => ignore(error, 'the serial line broke'));
  }

  /** The process has its copy. */
  handedOver(): void {
    closeSync(this.fd);
  }
}
