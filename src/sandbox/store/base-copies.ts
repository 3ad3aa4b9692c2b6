/**
 * Bases that this process's saves are writing. Another save that needs the same one gets a link to the copy: the first
 * saves of a template often come at once, and each would write all of it.
 */
import { link } from 'node:fs/promises';
import { ignore } from '../../base/ignore.ts';

interface Copy {
  readonly path: string;
  readonly written: Promise<void>;
}

export class BaseCopies {
  /** By digest, until their files leave the staging directory. */
  readonly #copies = new Map<string, Copy>();

  /**
   * Writes the base to `path`, or links it from another save. It waits only for that save's copy, never for its guest.
   * @returns false if the other copy is gone: moved into the store, or discarded with its save
   */
  async write(digest: string, path: string, copy: (to: string) => Promise<void>): Promise<boolean> {
    const other = this.#copies.get(digest);
    if (other !== undefined) return await this.#linked(other, digest, path);
    const written = copy(path);
    this.#copies.set(digest, { path, written });
    try {
      await written;
      return true;
    } catch (error) {
      this.forget(digest, path);
      throw error;
    }
  }

  /** Call when the file is about to leave, or has left, the staging directory. Does nothing for a link. */
  forget(digest: string, path: string): void {
    if (this.#copies.get(digest)?.path === path) this.#copies.delete(digest);
  }

  async #linked(other: Copy, digest: string, path: string): Promise<boolean> {
    try {
      await other.written;
      await link(other.path, path);
      return true;
    } catch (error) {
      ignore(error, 'the caller looks for it in the store, and then writes it');
      this.forget(digest, other.path);
      return false;
    }
  }
}
