/**
 * The input of the serial line. Firecracker accepts only a terminal or a pipe as stdin, and Node makes socket pairs; so
 * this is a named pipe that is unlinked at once.
 */
import { closeSync, constants, openSync, unlinkSync } from 'node:fs';
import { Socket } from 'node:net';
import { ignore } from '../../../../base/ignore.ts';
import { makeFifo } from '../../../../sys/fifo.ts';

export class SerialInput {
  /** The end for stdin; valid until `handedOver`. */
  readonly fd: number;
  readonly writable: Socket;

  /** @param path an unused path. @throws SyscallError */
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

  /** Call it once the process has its copy. */
  handedOver(): void {
    closeSync(this.fd);
  }
}
