/**
 * RAM for VMMs that map it copy-on-write and may be hostile: memfds that nobody can write or resize any more. All clones of
 * one share its pages until they write to them.
 *
 *     template, snapshot ──copied once, while somebody uses it──► memfd, sealed
 *     RAM of a fork, a memfd of ours ──────────────sealed───────► the same memfd
 */
import { readlinkSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import type { MappedMemory } from '../../sandbox/parts.ts';
import { closeInPool, createMemFd, sealContent } from '../../sys/fd.ts';
import { copyDataInto } from '../../sys/sparse-threads.ts';
import type { SharedCopy } from './shared-ram.ts';

export class SealedRam {
  /** By the identity of the file that they are copies of. */
  readonly #copies = new Map<string, Shared>();

  /** Keeps a copy until `drop` and the end of all that `open` gave out. */
  async copy(path: string): Promise<SharedCopy> {
    const kept = await this.map(path);
    return { open: () => this.map(path), drop: () => kept.close() };
  }

  /** @param path a RAM file that does not change, or a memfd of this process, which is sealed */
  async map(path: string): Promise<MappedMemory> {
    const file = await open(path, 'r+');
    let closing: (() => Promise<void>) | undefined = () => file.close();
    try {
      if (isMemFd(file.fd)) {
        sealContent(file.fd);
        closing = undefined;
        return mapped(file.fd, () => file.close());
      }
      return await this.#copyOf(file);
    } finally {
      await closing?.();
    }
  }

  /** Each user has closed its own. */
  async close(): Promise<void> {}

  async #copyOf(file: FileHandle): Promise<MappedMemory> {
    const { dev, ino, size, ctimeNs } = await file.stat({ bigint: true });
    const key = `${dev}:${ino}:${size}:${ctimeNs}`;
    let shared = this.#copies.get(key);
    if (shared === undefined) {
      shared = new Shared(`/proc/self/fd/${file.fd}`, Number(size));
      this.#copies.set(key, shared);
    }
    const made = shared;
    made.users += 1;
    const leave = async (): Promise<void> => {
      made.users -= 1;
      if (made.users > 0) return;
      if (this.#copies.get(key) === made) this.#copies.delete(key);
      await made.close();
    };
    try {
      await made.filled;
      return mapped(made.fd, leave);
    } catch (error) {
      await leave();
      throw error;
    }
  }
}

class Shared {
  readonly fd: number;
  readonly filled: Promise<void>;
  users = 0;

  constructor(from: string, bytes: number) {
    this.fd = createMemFd('shared-ram', bytes);
    this.filled = copyDataInto(from, `/proc/self/fd/${this.fd}`).then(() => sealContent(this.fd));
  }

  async close(): Promise<void> {
    await closeInPool(this.fd);
  }
}

function mapped(fd: number, leave: () => Promise<void>): MappedMemory {
  const path = `/proc/self/fd/${fd}`;
  let closing: Promise<void> | undefined;
  return {
    path,
    copyInto: (target) => copyDataInto(path, target),
    close() {
      closing ??= leave();
      return closing;
    },
  };
}

const isMemFd = (fd: number): boolean => readlinkSync(`/proc/self/fd/${fd}`).startsWith('/memfd:');
