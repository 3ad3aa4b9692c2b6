/**
 * Keys of tenants: one file per key in the home, without the key itself.
 *
 *     HOME/keys/        0700
 *       ID.json         0600   {id, tenant, name, sha256, createdAtMs, revokedAtMs}
 *
 * A file appears and changes by a rename, so each is whole at any moment, and two commands at once do not meet. The id is
 * the beginning of the key's digest: whoever holds a key can tell its id, and nobody the key from its id.
 */
import { randomBytes, timingSafeEqual } from 'node:crypto';
import {
  chmodSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import type { Clock } from '../base/clock.ts';
import { describeError, errorCode } from '../base/errors.ts';
import { ignore } from '../base/ignore.ts';
import type { Log } from '../base/log.ts';
import { privateDirFault } from '../base/private-dir.ts';
import { isAtMost } from '../base/text/characters.ts';
import { type Caller, keyDigest } from './callers.ts';
import { TenantError } from './errors.ts';
import { TENANT_LIMITS, TENANT_NAME } from './limits.ts';

const ID_HEX_DIGITS = 12;
const KEY_BYTES = 24;
const FILE_NAME = /^[0-9a-f]{12}\.json$/;

const keyFile = z.object({
  id: z.string().regex(/^[0-9a-f]{12}$/),
  tenant: z.string().regex(TENANT_NAME),
  /** Label for people. */
  name: z.string().nullable(),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
  createdAtMs: z.number(),
  revokedAtMs: z.number().nullable(),
});
type KeyFile = z.infer<typeof keyFile>;
/** A key as its owner may see it. */
export type KeyInfo = Omit<KeyFile, 'sha256'>;

/** The directory of a home's keys, for the commands. */
export class KeyStore {
  readonly #dir: string;
  readonly #clock: Clock;

  constructor(homeDir: string, clock: Clock) {
    this.#dir = keysDir(homeDir);
    this.#clock = clock;
  }

  /**
   * Makes a key, which is nowhere afterwards but in the answer.
   * @throws TenantError `invalid`, `too_many`, `file_failed`
   */
  create(tenant: string, name: string | null): { readonly info: KeyInfo; readonly key: string } {
    checkTenantName(tenant);
    if (name !== null && (name === '' || !isAtMost(name, TENANT_LIMITS.keyLabelCharactersMax))) {
      const text = `a key's name has 1 to ${TENANT_LIMITS.keyLabelCharactersMax} characters`;
      throw new TenantError('invalid', text);
    }
    if (fileNames(this.#dir).length >= TENANT_LIMITS.keysMax) {
      throw new TenantError('too_many', `the home has ${TENANT_LIMITS.keysMax} keys, the maximum`, {
        remedy: `remove files of revoked keys from ${this.#dir}`,
      });
    }
    // Clients of E2B up to version 2.45 take only keys like this.
    const key = `e2b_${randomBytes(KEY_BYTES).toString('hex')}`;
    const sha256 = keyDigest(key).toString('hex');
    const id = sha256.slice(0, ID_HEX_DIGITS);
    const createdAtMs = Math.round(this.#clock.wall());
    const file = { id, tenant, name, sha256, createdAtMs, revokedAtMs: null };
    this.#write(file);
    return { info: infoOf(file), key };
  }

  /** Oldest first, revoked ones included. @throws TenantError `file_failed` */
  list(): readonly KeyInfo[] {
    return fileNames(this.#dir)
      .map((name) => infoOf(readKey(join(this.#dir, name))))
      .sort((a, b) => a.createdAtMs - b.createdAtMs || (a.id < b.id ? -1 : 1));
  }

  /** The daemon refuses the key from now on. Does nothing if it is revoked already. @throws TenantError `not_found` */
  revoke(id: string): KeyInfo {
    const name = `${id}.json`;
    if (!fileNames(this.#dir).includes(name)) {
      throw new TenantError('not_found', `there is no key ${id}`, { remedy: 'neurovisor key ls' });
    }
    const file = readKey(join(this.#dir, name));
    if (file.revokedAtMs !== null) return infoOf(file);
    const revoked = { ...file, revokedAtMs: Math.round(this.#clock.wall()) };
    this.#write(revoked);
    return infoOf(revoked);
  }

  #write(file: KeyFile): void {
    try {
      mkdirSync(this.#dir, { recursive: true, mode: 0o700 });
      const fault = privateDirFault(this.#dir);
      if (fault !== undefined) throw new Error(fault);
      chmodSync(this.#dir, 0o700);
      const path = join(this.#dir, `${file.id}.json`);
      const draft = `${path}.${randomBytes(4).toString('hex')}.new`;
      try {
        writeFileSync(draft, `${JSON.stringify(file)}\n`, { mode: 0o600, flag: 'wx', flush: true });
        renameSync(draft, path);
      } catch (error) {
        rmSync(draft, { force: true });
        throw error;
      }
    } catch (error) {
      throw new TenantError('file_failed', `could not write the key ${file.id}`, { cause: error });
    }
  }
}

/**
 * The keys as a running daemon sees them. It looks at the directory's time for each request, and reads the files again
 * after a change. Two changes within one tick of the file system's clock have one time, so a directory that has just
 * changed is read for every request until its time is `keysFreshMs` old.
 */
export class KnownKeys {
  readonly #dir: string;
  readonly #clock: Clock;
  readonly #log: Log;
  #byDigest: ReadonlyMap<string, KeyFile> = new Map();
  /** Time of the directory that was read, nanoseconds; null: it must be read. */
  #readAtNs: bigint | null = null;

  constructor(homeDir: string, clock: Clock, log: Log) {
    this.#dir = keysDir(homeDir);
    this.#clock = clock;
    this.#log = log;
  }

  /** The owner of a key; null for an unknown or revoked one, and while the files can't be read. Never throws. */
  identify(key: string): Caller | null {
    this.#refresh();
    const digest = keyDigest(key);
    const found = this.#byDigest.get(digest.toString('hex'));
    // The same work whether or not there is such a key.
    const isSame = timingSafeEqual(digest, Buffer.from(found?.sha256 ?? NO_DIGEST, 'hex'));
    const isUsable = isSame && found !== undefined && found.revokedAtMs === null;
    return isUsable ? { tenant: found.tenant, key: found.id } : null;
  }

  #refresh(): void {
    try {
      const found = statSync(this.#dir, { bigint: true, throwIfNoEntry: false });
      const changedAtNs = found?.mtimeNs ?? 0n;
      if (changedAtNs === this.#readAtNs) return;
      const files = found === undefined ? [] : this.#readAll();
      this.#byDigest = new Map(files.map((file) => [file.sha256, file]));
      const ageMs = this.#clock.wall() - Number(changedAtNs / 1_000_000n);
      this.#readAtNs = ageMs > TENANT_LIMITS.keysFreshMs ? changedAtNs : null;
    } catch (error) {
      // No key opens the daemon until it can be told whether it is revoked.
      this.#byDigest = new Map();
      this.#readAtNs = null;
      this.#log.error('the keys could not be read', { reason: describeError(error) });
    }
  }

  /** Without files that can't be read: their keys are unknown, the others are not. */
  #readAll(): readonly KeyFile[] {
    return fileNames(this.#dir).flatMap((name) => {
      try {
        return [readKey(join(this.#dir, name))];
      } catch (error) {
        this.#log.warn('a key is ignored', { reason: describeError(error) });
        return [];
      }
    });
  }
}

const NO_DIGEST = '0'.repeat(64);

/** @throws TenantError `invalid` */
export function checkTenantName(name: string): void {
  if (TENANT_NAME.test(name)) return;
  throw new TenantError('invalid', `"${name}" is not a valid tenant name`, {
    remedy: 'use up to 31 lowercase letters, digits, _ and -, beginning with a letter or digit',
  });
}

const keysDir = (homeDir: string): string => join(homeDir, 'keys');

function infoOf({ sha256: _secret, ...info }: KeyFile): KeyInfo {
  return info;
}

function fileNames(dir: string): readonly string[] {
  try {
    return readdirSync(dir).filter((name) => FILE_NAME.test(name));
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error;
    ignore(error, 'no key was made yet');
    return [];
  }
}

/** @throws TenantError `file_failed` */
function readKey(path: string): KeyFile {
  try {
    if (statSync(path).size > TENANT_LIMITS.keyFileBytesMax) throw new Error('it is too large');
    const file = keyFile.parse(JSON.parse(readFileSync(path, 'utf8')));
    if (!path.endsWith(`/${file.id}.json`)) throw new Error('it names another key');
    if (!file.sha256.startsWith(file.id)) throw new Error('its digest is of another key');
    return file;
  } catch (error) {
    throw new TenantError('file_failed', `could not read the key file ${path}`, {
      cause: error,
      remedy: 'remove it, and create another key',
    });
  }
}
