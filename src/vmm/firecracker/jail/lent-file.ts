/**
 * A file of the host that a jailed VMM may write to for a while. Who lends it holds it open, so giving and taking
 * back follow no name, and what else the VMM may have made of it (its mode) goes with the loan.
 */
import { closeSync, constants, fchmodSync, fchownSync, fstatSync, openSync } from 'node:fs';

const PERMISSIONS = 0o777;
const OWNERS_ALONE = 0o600;

export class LentFile {
  readonly #fd: number;
  readonly #mode: number;

  private constructor(fd: number, mode: number) {
    this.#fd = fd;
    this.#mode = mode;
  }

  /** @throws Error, of Node too: it is no regular file, or has a second name, so it is somebody else's too */
  static open(hostPath: string): LentFile {
    const fd = openRegular(hostPath);
    const { mode, nlink } = fstatSync(fd);
    if (nlink === 1) return new LentFile(fd, mode & PERMISSIONS);
    closeSync(fd);
    throw new Error('it has more than one name');
  }

  /** One that an owner before us has lent. @throws Error, of Node too */
  static takeOver(hostPath: string): LentFile {
    return new LentFile(openRegular(hostPath), OWNERS_ALONE);
  }

  give(uid: number, gid: number): void {
    fchownSync(this.#fd, uid, gid);
  }

  /** Ends the loan. */
  takeBack(): void {
    try {
      fchownSync(this.#fd, process.geteuid?.() ?? 0, process.getegid?.() ?? 0);
      fchmodSync(this.#fd, this.#mode);
    } finally {
      closeSync(this.#fd);
    }
  }
}

/** No link is followed, and nothing waits for the other end of a pipe. */
function openRegular(path: string): number {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  if (fstatSync(fd).isFile()) return fd;
  closeSync(fd);
  throw new Error('it is no regular file');
}
