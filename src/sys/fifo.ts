/** Named pipes (fifo(7)). */
import { check, libc } from './libc.ts';

const mkfifo = libc.func('int mkfifo(const char *path, uint32_t mode)');

/** Creates a pipe that only its owner may use. @throws SyscallError, for example `EEXIST` */
export function makeFifo(path: string): void {
  check(mkfifo(path, 0o600), `mkfifo ${path}`);
}
