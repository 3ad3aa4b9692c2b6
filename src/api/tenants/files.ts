/**
 * A directory of small JSON files, which one process reads once and changes: the daemon, or a command with the daemon's
 * lock. Each file is replaced by a rename, so it is always whole. Directory 0700, files 0600.
 */
import { randomBytes } from 'node:crypto';
import { chmodSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { z } from 'zod';
import { errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
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

  /** All files, without drafts of a killed process. @throws TenantError `file_failed`, also for a single damaged file */
  readAll(): readonly T[] {
    return this.#names().map((name) => this.#read(name));
  }

  /** Without `.json`. */
  #names(): readonly string[] {
    try {
      return readdirSync(this.dir)
        .filter((file) => file.endsWith('.json'))
        .map((file) => file.slice(0, -'.json'.length))
        .filter((name) => this.#kind.name.test(name));
    } catch (error) {
      if (errorCode(error) !== 'ENOENT') {
        throw new TenantError('file_failed', `could not read ${this.dir}`, { cause: error });
      }
      ignore(error, 'nothing was written yet');
      return [];
    }
  }

  #read(name: string): T {
    const { schema, nameOf, what } = this.#kind;
    const path = this.#path(name);
    try {
      if (statSync(path).size > TENANT_LIMITS.fileBytesMax) throw new Error('it is too large');
      const value = schema.parse(JSON.parse(readFileSync(path, 'utf8')));
      if (nameOf(value) !== name) throw new Error('it is another one’s');
      return value;
    } catch (error) {
      const remedy = `repair the file ${path}, or remove it and set it again`;
      const text = `could not read ${what} ${name}`;
      throw new TenantError('file_failed', text, { cause: error, remedy });
    }
  }

  /** @throws TenantError `file_failed`; `invalid`: the file could not be read back */
  write(value: T): void {
    const { nameOf, schema, what } = this.#kind;
    const name = nameOf(value);
    const [fault] = schema.safeParse(value).error?.issues ?? [];
    if (fault !== undefined) throw new TenantError('invalid', `${fault.path.join('.')}: ${fault.message}`);
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

  /** Does nothing if there is no such file. @throws TenantError `file_failed` */
  remove(name: string): void {
    try {
      rmSync(this.#path(name), { force: true });
    } catch (error) {
      throw new TenantError('file_failed', `could not remove ${this.#kind.what} ${name}`, { cause: error });
    }
  }

  #path(name: string): string {
    return join(this.dir, `${name}.json`);
  }
}
