/**
 * A host file that a jailed VMM may write to for a while. The lender holds it open, so lending and taking back follow
 * no name; taking back also restores the mode.
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

  /** @throws Error if the file is not regular or has a second link, through which others can reach it; Node's errors */
  static open(hostPath: string): LentFile {
    const fd = openRegular(hostPath);
    const { mode, nlink } = fstatSync(fd);
    if (nlink === 1) return new LentFile(fd, mode & PERMISSIONS);
    closeSync(fd);
    throw new Error('it has more than one link');
  }

  /** Opens a file that an earlier owner has lent. @throws Error; Node's errors */
  static takeOver(hostPath: string): LentFile {
    return new LentFile(openRegular(hostPath), OWNERS_ALONE);
  }

  give(uid: number, gid: number): void {
    fchownSync(this.#fd, uid, gid);
  }

  takeBack(): void {
    try {
      fchownSync(this.#fd, process.geteuid?.() ?? 0, process.getegid?.() ?? 0);
      fchmodSync(this.#fd, this.#mode);
    } finally {
      closeSync(this.#fd);
    }
  }
}

/** Does not follow a link and does not wait for the other end of a pipe. */
function openRegular(path: string): number {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  if (fstatSync(fd).isFile()) return fd;
  closeSync(fd);
  throw new Error('it is not a regular file');
}
