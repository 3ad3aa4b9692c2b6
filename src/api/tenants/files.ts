/**
 * A directory of small JSON files. Each is created and changed by a rename, so it is always whole, and concurrent
 * commands do not conflict. Directory 0700, files 0600.
 */
import { randomBytes } from 'node:crypto';
import { chmodSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { z } from 'zod';
import type { Clock } from '../../base/clock.ts';
import { describeError, errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import { privateDirFault } from '../../base/private-dir.ts';
import { TenantError } from './errors.ts';
import { TENANT_LIMITS } from './limits.ts';

export interface FileKind<T> {
  readonly dir: string;
  readonly what: string;
  /** Pattern of the names, without `.json`. */
  readonly name: RegExp;
  readonly schema: z.ZodType<T>;
  nameOf(value: T): string;
}

export class JsonFiles<T> {
  readonly #kind: FileKind<T>;

  constructor(kind: FileKind<T>) {
    this.#kind = kind;
  }

  get dir(): string {
    return this.#kind.dir;
  }

  /** Without `.json`; excludes drafts of a killed command. */
  names(): readonly string[] {
    try {
      return readdirSync(this.dir)
        .filter((file) => file.endsWith('.json'))
        .map((file) => file.slice(0, -'.json'.length))
        .filter((name) => this.#kind.name.test(name));
    } catch (error) {
      if (errorCode(error) !== 'ENOENT') throw error;
      ignore(error, 'nothing was written yet');
      return [];
    }
  }

  /** @throws TenantError `file_failed` */
  read(name: string): T {
    const { schema, nameOf, what } = this.#kind;
    const path = this.#path(name);
    try {
      if (statSync(path).size > TENANT_LIMITS.fileBytesMax) throw new Error('it is too large');
      const value = schema.parse(JSON.parse(readFileSync(path, 'utf8')));
      if (nameOf(value) !== name) throw new Error('it is another one’s');
      return value;
    } catch (error) {
      const remedy = 'remove it, and create another';
      const text = `could not read ${what} ${name} in ${this.dir}`;
      throw new TenantError('file_failed', text, { cause: error, remedy });
    }
  }

  /** @throws TenantError `file_failed` */
  write(value: T): void {
    const { nameOf, what } = this.#kind;
    const name = nameOf(value);
    try {
      mkdirSync(this.dir, { recursive: true, mode: 0o700 });
      const fault = privateDirFault(this.dir);
      if (fault !== undefined) throw new Error(fault);
      chmodSync(this.dir, 0o700);
      const path = this.#path(name);
      const draft = `${path}.${randomBytes(4).toString('hex')}.new`;
      try {
        const options = { mode: 0o600, flag: 'wx', flush: true };
        writeFileSync(draft, `${JSON.stringify(value)}\n`, options);
        renameSync(draft, path);
      } catch (error) {
        rmSync(draft, { force: true });
        throw error;
      }
    } catch (error) {
      throw new TenantError('file_failed', `could not write ${what} ${name}`, { cause: error });
    }
  }

  #path(name: string): string {
    return join(this.dir, `${name}.json`);
  }
}

/**
 * The files as a running daemon sees them. Checks the directory's time for each request, and reads the files again
 * after a change. Two changes within one tick of the file system's clock have the same time, so a directory that has
 * just changed is read for every request until its time is `filesFreshMs` old.
 */
export class WatchedFiles<T> {
  readonly #files: JsonFiles<T>;
  readonly #clock: Clock;
  readonly #log: Log;
  #values: readonly T[] = [];
  /** Counts changes, for callers that cache derived values. */
  #version = 0;
  /** Time of the directory that was read, in nanoseconds; `null` if it must be read. */
  #readAtNs: bigint | null = null;
  /** Why files were ignored at the last reading, by name. */
  #ignored: ReadonlyMap<string, string> = new Map();

  constructor(files: JsonFiles<T>, clock: Clock, log: Log) {
    this.#files = files;
    this.#clock = clock;
    this.#log = log;
  }

  /**
   * Excludes unreadable files, each of which is logged. Never throws.
   * @returns `null` if the directory itself can't be read
   */
  current(): WatchedValues<T> | null {
    try {
      const found = statSync(this.#files.dir, { bigint: true, throwIfNoEntry: false });
      const changedAtNs = found?.mtimeNs ?? 0n;
      if (changedAtNs !== this.#readAtNs) {
        const isComplete = this.#readAll(found !== undefined);
        this.#version += 1;
        const ageMs = this.#clock.wall() - Number(changedAtNs / 1_000_000n);
        const isOld = ageMs > TENANT_LIMITS.filesFreshMs;
        this.#readAtNs = isOld && isComplete ? changedAtNs : null;
      }
      const ignored: ReadonlySet<string> = new Set(this.#ignored.keys());
      return { values: this.#values, ignored, version: this.#version };
    } catch (error) {
      this.#readAtNs = null;
      const reason = describeError(error);
      this.#log.error('a directory of the home can’t be read', { dir: this.#files.dir, reason });
      return null;
    }
  }

  /**
   * @returns false if the system failed to read a file, which may work the next time without a change of the directory
   */
  #readAll(isThere: boolean): boolean {
    const values: T[] = [];
    const ignored = new Map<string, string>();
    let isComplete = true;
    for (const name of isThere ? this.#files.names() : []) {
      try {
        values.push(this.#files.read(name));
      } catch (error) {
        const reason = describeError(error);
        ignored.set(name, reason);
        if (error instanceof TenantError && errorCode(error.cause) !== undefined) isComplete = false;
        if (this.#ignored.get(name) === reason) continue;
        this.#log.warn('a file of the home is ignored', { reason });
      }
    }
    this.#values = values;
    this.#ignored = ignored;
    return isComplete;
  }
}

export interface WatchedValues<T> {
  readonly values: readonly T[];
  readonly ignored: ReadonlySet<string>;
  readonly version: number;
}
