/**
 * RAM for VMMs that map it copy-on-write and may be hostile: memfds that nobody can write or resize any more. All clones of
 * one share its pages until they write to them.
 *
 *     template, snapshot ──copied while somebody uses it, and a minute longer──► memfd, sealed
 *     RAM of a fork, a memfd of ours ────────────────────────────sealed────────► the same memfd
 *
 * Each group of sharers has a memfd of its own.
 */
import { readlinkSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { type Clock, systemClock } from '../../base/clock.ts';
import { ignore } from '../../base/ignore.ts';
import type { MappedMemory, RamBase } from '../../sandbox/parts.ts';
import { closeInPool, createMemFd, sealContent, sealSize, usedBytes } from '../../sys/fd.ts';
import { copyDataInto, digestSparse } from '../../sys/sparse-threads.ts';
import { type CloneRam, type RamFile, type SharedCopy, UNUSED_MS_MAX } from './parts.ts';

export class SealedRam implements CloneRam {
  readonly #clock: Clock;
  /** By content and sharers. */
  readonly #copies = new Map<string, Shared>();
  /** Of `copy`, until they are dropped. */
  readonly #kept = new Set<Source>();
  /** Memory that was sealed without a copy, by its identity: descriptors of its users, who share its digest. */
  readonly #sealed = new Map<string, Digested & { readonly fds: Set<number> }>();

  constructor(clock: Clock = systemClock) {
    this.#clock = clock;
  }

  /** Of the pages of copies and sealed memories that are there, each once. */
  get bytes(): number {
    const sealed = [...this.#sealed.values()].map(({ fds: [fd] }) =>
      fd === undefined ? 0 : usedBytes(fd),
    );
    const all = [...[...this.#copies.values()].map(({ bytes }) => bytes), ...sealed];
    return all.reduce((sum, bytes) => sum + bytes, 0);
  }

  /** Keeps the file open, and copies it when somebody uses it, until `drop`. */
  async copy(file: RamFile): Promise<SharedCopy> {
    const source = await Source.open(file);
    this.#kept.add(source);
    return {
      open: async (sharers) => this.#use(source, sharers),
      drop: async () => {
        this.#kept.delete(source);
        await source.close();
      },
    };
  }

  /** @param file does not change; or a memfd of this process, which is sealed */
  async map(file: RamFile, sharers: string): Promise<MappedMemory> {
    const source = await Source.open(file);
    try {
      if (source.isMemFd) return await this.#sealedItself(source.id, file.path);
      return this.#use(source, sharers);
    } finally {
      // It waits for the copy, which the user need not.
      void source.close();
    }
  }

  /** Each user has closed its own. Drops what is left. */
  async close(): Promise<void> {
    await Promise.all([
      ...[...this.#copies.values()].map((shared) => this.#remove(shared)),
      ...[...this.#kept].map((source) => source.close()),
    ]);
    this.#kept.clear();
  }

  /** Adds a user. */
  #use(source: Source, sharers: string): MappedMemory {
    if (source.isClosed) throw new Error('the RAM was dropped');
    const key = `${source.id} ${sharers}`;
    return this.#share(this.#copies.get(key) ?? this.#load(source, key));
  }

  #share(shared: Shared): MappedMemory {
    shared.users += 1;
    shared.cancelRemoval();
    const base: RamBase = {
      digest: () => shared.digest(),
      get dataBytes() {
        return shared.dataBytes;
      },
      open: async () => this.#share(shared),
    };
    return mapped(shared.fd, base, shared.filled, async () => {
      shared.users -= 1;
      if (shared.users > 0) return;
      if (!shared.isFilled) return await this.#remove(shared);
      const remove = (): void => void this.#remove(shared);
      shared.cancelRemoval = this.#clock.after(UNUSED_MS_MAX, remove);
    });
  }

  /** @param id of the memory: once one of its users has asked for its digest, all know it */
  async #sealedItself(id: string, path: string): Promise<MappedMemory> {
    // Seals need the right to write.
    const file = await open(path, 'r+');
    try {
      sealContent(file.fd);
      const own = `/proc/self/fd/${file.fd}`;
      const sealed = this.#sealed.get(id) ?? { fds: new Set() };
      this.#sealed.set(id, sealed);
      sealed.fds.add(file.fd);
      const base: RamBase = {
        digest: () => digestOnce(sealed, own),
        dataBytes: usedBytes(file.fd),
        open: () => this.#sealedItself(id, own),
      };
      return mapped(file.fd, base, undefined, async () => {
        sealed.fds.delete(file.fd);
        if (sealed.fds.size === 0) this.#sealed.delete(id);
        // A digest under way may read by this number.
        await Promise.allSettled([sealed.digest]);
        await file.close();
      });
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  #load(source: Source, key: string): Shared {
    const shared = new Shared(key, source);
    this.#copies.set(key, shared);
    shared.filled.catch(() => {
      // The next user tries again.
      if (this.#copies.get(key) === shared) this.#copies.delete(key);
    });
    return shared;
  }

  async #remove(shared: Shared): Promise<void> {
    if (this.#copies.get(shared.key) === shared) this.#copies.delete(shared.key);
    shared.cancelRemoval();
    await shared.close();
  }
}

/** A RAM file, open. */
class Source {
  readonly id: string;
  /** Of its content, verified. */
  readonly digest: string | undefined;
  readonly isMemFd: boolean;
  readonly bytes: number;
  readonly #file: FileHandle;
  readonly #writtenNs: bigint;
  readonly #copying = new Set<Promise<void>>();
  #closing: Promise<void> | undefined;

  static async open({ path, digest }: RamFile): Promise<Source> {
    const file = await open(path, 'r');
    try {
      const { dev, ino, size, mtimeNs, ctimeNs } = await file.stat({ bigint: true });
      const id = digest ?? `${dev}:${ino}:${size}:${ctimeNs}`;
      return new Source(file, { id, digest }, Number(size), mtimeNs);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  private constructor(
    file: FileHandle,
    { id, digest }: Pick<Source, 'id' | 'digest'>,
    bytes: number,
    writtenNs: bigint,
  ) {
    this.#file = file;
    this.id = id;
    this.digest = digest;
    this.bytes = bytes;
    this.#writtenNs = writtenNs;
    this.isMemFd = readlinkSync(`/proc/self/fd/${file.fd}`).startsWith('/memfd:');
  }

  get isClosed(): boolean {
    return this.#closing !== undefined;
  }

  async copyInto(target: string): Promise<void> {
    const copying = this.#copyInto(target);
    this.#copying.add(copying);
    try {
      await copying;
    } finally {
      this.#copying.delete(copying);
    }
  }

  async #copyInto(target: string): Promise<void> {
    await copyDataInto(`/proc/self/fd/${this.#file.fd}`, target);
    // Names may come and go, but what was verified must be what clones get.
    const { mtimeNs, size } = await this.#file.stat({ bigint: true });
    if (mtimeNs !== this.#writtenNs || Number(size) !== this.bytes)
      throw new Error('the RAM file was written to');
  }

  /** Idempotent. */
  close(): Promise<void> {
    this.#closing ??= Promise.allSettled(this.#copying).then(() => this.#file.close());
    return this.#closing;
  }
}

class Shared {
  readonly key: string;
  readonly fd: number;
  readonly filled: Promise<void>;
  isFilled = false;
  /** Once it is filled. Later it grows: a hole that a clone reads becomes a page. */
  dataBytes = 0;
  users = 0;
  cancelRemoval: () => void = () => undefined;
  readonly #digested: Digested = {};
  #closing: Promise<void> | undefined;

  constructor(key: string, source: Source) {
    this.key = key;
    if (source.digest !== undefined) this.#digested.digest = Promise.resolve(source.digest);
    this.fd = createMemFd('shared-ram', source.bytes);
    // A VMM may map it before it is whole.
    sealSize(this.fd);
    this.filled = source.copyInto(`/proc/self/fd/${this.fd}`).then(() => {
      sealContent(this.fd);
      this.dataBytes = this.bytes;
      this.isFilled = true;
    });
    this.filled.catch((error: unknown) => ignore(error, 'reported to each user'));
  }

  /** Call while it has users. */
  async digest(): Promise<string> {
    await this.filled;
    return await digestOnce(this.#digested, `/proc/self/fd/${this.fd}`);
  }

  /** Pages that are there, and not holes. */
  get bytes(): number {
    return this.#closing === undefined ? usedBytes(this.fd) : 0;
  }

  /** Idempotent. */
  close(): Promise<void> {
    // The copy and a digest open the memory by its descriptor number, which must not be reused before they end.
    this.#closing ??= Promise.allSettled([this.filled, this.#digested.digest]).then(() =>
      closeInPool(this.fd),
    );
    return this.#closing;
  }
}

interface Digested {
  digest?: Promise<string>;
}

/** A failure is forgotten. */
function digestOnce(known: Digested, path: string): Promise<string> {
  known.digest ??= digestSparse(path).catch((error: unknown) => {
    delete known.digest;
    throw error;
  });
  return known.digest;
}

function mapped(
  fd: number,
  base: RamBase,
  ready: Promise<void> | undefined,
  leave: () => Promise<void>,
): MappedMemory {
  const path = `/proc/self/fd/${fd}`;
  let closing: Promise<void> | undefined;
  return {
    path,
    base,
    ...(ready === undefined ? {} : { ready }),
    copyInto: async (target) => {
      await ready;
      await copyDataInto(path, target);
    },
    close() {
      closing ??= leave();
      return closing;
    },
  };
}
