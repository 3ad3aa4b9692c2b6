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
    const file = await open(path, 'r');
    try {
      const { shared, memory } = await this.#copyOf(file);
      // The path may lead to another file later, or to none.
      return { open: async () => this.#use(shared), drop: () => memory.close() };
    } finally {
      await file.close();
    }
  }

  /** @param path a RAM file that does not change, or a memfd of this process, which is sealed */
  async map(path: string): Promise<MappedMemory> {
    const file = await open(path, 'r');
    try {
      if (isMemFd(file.fd)) return await sealedItself(path);
      return (await this.#copyOf(file)).memory;
    } finally {
      await file.close();
    }
  }

  /** Each user has closed its own. */
  async close(): Promise<void> {}

  async #copyOf(file: FileHandle): Promise<{ shared: Shared; memory: MappedMemory }> {
    const { dev, ino, size, ctimeNs } = await file.stat({ bigint: true });
    const key = `${dev}:${ino}:${size}:${ctimeNs}`;
    let shared = this.#copies.get(key);
    if (shared === undefined) {
      shared = new Shared(key, `/proc/self/fd/${file.fd}`, Number(size));
      this.#copies.set(key, shared);
    }
    const memory = this.#use(shared);
    try {
      await shared.filled;
      return { shared, memory };
    } catch (error) {
      await memory.close();
      throw error;
    }
  }

  /** Adds a user. Its copy has one already, or is new. */
  #use(shared: Shared): MappedMemory {
    if (shared.isClosed) throw new Error('the RAM was dropped');
    shared.users += 1;
    return mapped(shared.fd, async () => {
      shared.users -= 1;
      if (shared.users > 0) return;
      if (this.#copies.get(shared.key) === shared) this.#copies.delete(shared.key);
      await shared.close();
    });
  }
}

class Shared {
  readonly key: string;
  readonly fd: number;
  readonly filled: Promise<void>;
  users = 0;
  isClosed = false;

  constructor(key: string, from: string, bytes: number) {
    this.key = key;
    this.fd = createMemFd('shared-ram', bytes);
    this.filled = copyDataInto(from, `/proc/self/fd/${this.fd}`).then(() => sealContent(this.fd));
  }

  async close(): Promise<void> {
    this.isClosed = true;
    await closeInPool(this.fd);
  }
}

async function sealedItself(path: string): Promise<MappedMemory> {
  // Seals need the right to write.
  const file = await open(path, 'r+');
  try {
    sealContent(file.fd);
    return mapped(file.fd, () => file.close());
  } catch (error) {
    await file.close();
    throw error;
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
