/**
 * RAM for VMMs that map it copy-on-write and may be hostile: sealed memfds that can no longer be written or resized. All
 * clones of one share its pages until they write to them.
 *
 *     template, snapshot ──copied while in use, and a minute longer──► memfd, sealed
 *     RAM of a fork, a memfd of ours ──────────────────sealed────────► the same memfd
 *
 * Each group of sharers has a memfd of its own.
 */
import { type BigIntStats, readlinkSync, statSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { type Clock, systemClock } from '../../../base/clock.ts';
import { ignore, tryOr } from '../../../base/ignore.ts';
import { MIB, STAT_BLOCK_BYTES } from '../../../base/units.ts';
import type { MappedMemory, RamBase, SharedNeed } from '../../../sandbox/contract/parts.ts';
import { type SharedMemory, SharedSizes } from '../../../sandbox/memory/shared-size.ts';
import { closeInPool, createMemFd, sealContent, sealSize, usedBytes } from '../../../sys/fd.ts';
import { copyDataInto, digestSparse } from '../../../sys/sparse-threads.ts';
import { type CloneRam, type RamFile, type SharedCopy, UNUSED_MS_MAX } from './parts.ts';

export class SealedRam implements CloneRam {
  readonly #clock: Clock;
  /** By content and sharers. */
  readonly #copies = new Map<string, Shared>();
  /** Results of `copy`, until they are dropped. */
  readonly #kept = new Set<Source>();
  /** Memory that was sealed without a copy, by its identity: descriptors of its users, who share its digest. */
  readonly #sealed = new Map<string, Sealed>();
  readonly #sizes = new SharedSizes();

  constructor(clock: Clock = systemClock) {
    this.#clock = clock;
  }

  /** Allocated pages of copies and sealed memories, each counted once. */
  get bytes(): number {
    return sumOf([...this.#copies.values(), ...this.#sealed.values()].map(bytesOf));
  }

  /** Counts only memories in use: the others no longer grow. */
  get pendingBytes(): number {
    const used = [...this.#copies.values()].filter(({ users }) => users > 0);
    for (const one of used) this.#sizes.note(memoryOf(one));
    return sumOf(
      [...used, ...this.#sealed.values()].map((one) =>
        Math.max(0, this.#sizes.expectedBytes(memoryOf(one)) - bytesOf(one)),
      ),
    );
  }

  get unusedBytes(): number {
    return sumOf(this.#unused.map(bytesOf));
  }

  async dropUnused(): Promise<void> {
    await Promise.all(this.#unused.map((shared) => this.#remove(shared)));
  }

  get #unused(): readonly Shared[] {
    return [...this.#copies.values()].filter(({ users }) => users === 0);
  }

  needOf({ path, digest }: RamFile, sharers: string): SharedNeed | undefined {
    return tryOr(undefined, 'a start from it reports that it is gone', () => {
      // Memory of this process exists already, and is sealed in place.
      if (isMemFd(path)) return undefined;
      return this.#needOf(factsOf(statSync(path, { bigint: true }), digest), sharers);
    });
  }

  #needOf(facts: Facts, sharers: string): SharedNeed {
    const key = keyOf(facts, sharers);
    const missingMib = (): number => {
      const shared = this.#copies.get(key);
      if (shared !== undefined && shared.users > 0) return 0;
      const memory = shared === undefined ? { ...facts, key, content: facts.id, grownBytes: 0 } : memoryOf(shared);
      const bytes = shared === undefined ? 0 : bytesOf(shared);
      return Math.max(0, this.#sizes.expectedBytes(memory) - bytes) / MIB;
    };
    return { key, missingMib };
  }

  /** Keeps the file open, and copies it at its first use, until `drop`. */
  async copy(file: RamFile): Promise<SharedCopy> {
    const source = await Source.open(file);
    this.#kept.add(source);
    return {
      open: async (sharers) => this.#use(source, sharers),
      needOf: (sharers) => this.#needOf(source.facts, sharers),
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
      if (source.isMemFd) return await this.#sealedItself(source.facts, file.path);
      return this.#use(source, sharers);
    } finally {
      // This waits for the copy, which the user need not do.
      void source.close();
    }
  }

  /** Call after each user has closed its own. Drops the rest. */
  async close(): Promise<void> {
    await Promise.all([
      ...[...this.#copies.values()].map((shared) => this.#remove(shared)),
      ...[...this.#kept].map((source) => source.close()),
    ]);
    this.#kept.clear();
  }

  #use(source: Source, sharers: string): MappedMemory {
    if (source.isClosed) throw new Error('the RAM was dropped');
    const key = keyOf(source.facts, sharers);
    return this.#share(this.#copies.get(key) ?? this.#load(source, key));
  }

  #share(shared: Shared): MappedMemory {
    shared.users += 1;
    shared.cancelRemoval();
    const base: RamBase = {
      digest: () => shared.digest(),
      get dataBytes() {
        return shared.facts.dataBytes;
      },
      open: async () => this.#share(shared),
    };
    return mapped(shared.fd, base, shared.filled, async () => {
      shared.users -= 1;
      if (shared.users > 0) return;
      this.#sizes.note(memoryOf(shared));
      if (!shared.isFilled) return await this.#remove(shared);
      const remove = (): void => void this.#remove(shared);
      shared.cancelRemoval = this.#clock.after(UNUSED_MS_MAX, remove);
    });
  }

  /** @param facts about the memory: once one of its users has requested its digest, all know it */
  async #sealedItself(facts: Facts, path: string): Promise<MappedMemory> {
    // Seals need write permission.
    const file = await open(path, 'r+');
    try {
      sealContent(file.fd);
      const own = `/proc/self/fd/${file.fd}`;
      const { id } = facts;
      const sealed = this.#sealed.get(id) ?? { facts, key: id, isFilled: true, fds: new Set() };
      this.#sealed.set(id, sealed);
      sealed.fds.add(file.fd);
      const base: RamBase = {
        digest: () => digestOnce(sealed, own),
        dataBytes: sealed.facts.dataBytes,
        open: () => this.#sealedItself(facts, own),
      };
      return mapped(file.fd, base, undefined, async () => {
        sealed.fds.delete(file.fd);
        if (sealed.fds.size === 0) this.#sealed.delete(id);
        // A digest under way may read by this descriptor number.
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

class Source {
  readonly facts: Facts;
  /** Verified digest of its content. */
  readonly digest: string | undefined;
  readonly isMemFd: boolean;
  readonly #file: FileHandle;
  readonly #writtenNs: bigint;
  readonly #copying = new Set<Promise<void>>();
  #closing: Promise<void> | undefined;

  static async open({ path, digest }: RamFile): Promise<Source> {
    const file = await open(path, 'r');
    try {
      const stat = await file.stat({ bigint: true });
      return new Source(file, factsOf(stat, digest), digest, stat.mtimeNs);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  private constructor(file: FileHandle, facts: Facts, digest: string | undefined, writtenNs: bigint) {
    this.#file = file;
    this.facts = facts;
    this.digest = digest;
    this.#writtenNs = writtenNs;
    this.isMemFd = isMemFd(`/proc/self/fd/${file.fd}`);
  }

  get isClosed(): boolean {
    return this.#closing !== undefined;
  }

  async copyInto(target: string): Promise<void> {
    const copying = this.#copyInto(target);
    this.#copying.add(copying);
    await copying.finally(() => this.#copying.delete(copying));
  }

  async #copyInto(target: string): Promise<void> {
    await copyDataInto(`/proc/self/fd/${this.#file.fd}`, target);
    // Names may change, but clones must get what was verified.
    const { mtimeNs, size } = await this.#file.stat({ bigint: true });
    if (mtimeNs !== this.#writtenNs || Number(size) !== this.facts.sizeBytes)
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
  /** Its data are the file's until it is filled. Later it grows: a hole that a clone reads becomes a page. */
  facts: Facts;
  users = 0;
  cancelRemoval: () => void = () => undefined;
  readonly #digested: Digested = {};
  #closing: Promise<void> | undefined;

  constructor(key: string, source: Source) {
    this.key = key;
    if (source.digest !== undefined) this.#digested.digest = Promise.resolve(source.digest);
    this.facts = source.facts;
    this.fd = createMemFd('shared-ram', source.facts.sizeBytes);
    // A VMM may map it before it is complete.
    sealSize(this.fd);
    this.filled = source.copyInto(`/proc/self/fd/${this.fd}`).then(() => {
      sealContent(this.fd);
      this.facts = { ...this.facts, dataBytes: this.bytes };
      this.isFilled = true;
    });
    this.filled.catch((error: unknown) => ignore(error, 'reported to each user'));
  }

  /** Call while it has users. */
  async digest(): Promise<string> {
    await this.filled;
    return await digestOnce(this.#digested, `/proc/self/fd/${this.fd}`);
  }

  /** Allocated pages, without holes. */
  get bytes(): number {
    return this.#closing === undefined ? usedBytes(this.fd) : 0;
  }

  /** Idempotent. */
  close(): Promise<void> {
    // The copy and a digest open the memory by its descriptor number, which must not be reused before they end.
    this.#closing ??= Promise.allSettled([this.filled, this.#digested.digest]).then(() => closeInPool(this.fd));
    return this.#closing;
  }
}

interface Digested {
  digest?: Promise<string>;
}

interface Sealed extends Digested, Pick<Shared, 'facts' | 'key' | 'isFilled'> {
  readonly fds: Set<number>;
}

interface Facts extends Pick<SharedMemory, 'dataBytes' | 'sizeBytes'> {
  /** Identifies its content, or the file. */
  readonly id: string;
}

function factsOf(stat: BigIntStats, digest: string | undefined): Facts {
  const { dev, ino, size, blocks, ctimeNs } = stat;
  const id = digest ?? `${dev}:${ino}:${size}:${ctimeNs}`;
  return { id, sizeBytes: Number(size), dataBytes: Number(blocks) * STAT_BLOCK_BYTES };
}

const keyOf = ({ id }: Facts, sharers: string): string => `${id} ${sharers}`;

const isMemFd = (path: string): boolean =>
  path.startsWith('/proc/self/fd/') && readlinkSync(path).startsWith('/memfd:');

/** Allocated pages, without holes. */
function bytesOf(memory: Shared | Sealed): number {
  if ('bytes' in memory) return memory.bytes;
  const [fd] = memory.fds;
  return fd === undefined ? 0 : usedBytes(fd);
}

function memoryOf(memory: Shared | Sealed): SharedMemory {
  const { key, facts, isFilled } = memory;
  const grownBytes = isFilled ? Math.max(0, bytesOf(memory) - facts.dataBytes) : 0;
  return { ...facts, key, content: facts.id, grownBytes };
}

const sumOf = (values: readonly number[]): number => values.reduce((sum, one) => sum + one, 0);

/** A failure is not cached. */
function digestOnce(known: Digested, path: string): Promise<string> {
  known.digest ??= digestSparse(path).catch((error: unknown) => {
    delete known.digest;
    throw error;
  });
  return known.digest;
}

function mapped(fd: number, base: RamBase, ready: Promise<void> | undefined, leave: () => Promise<void>): MappedMemory {
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
