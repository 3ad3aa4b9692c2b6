/**
 * Keys of tenants: one file per key in the home, without the key itself.
 *
 *     HOME/keys/ID.json     {id, tenant, name, sha256, createdAtMs, revokedAtMs}
 *
 * The id is the beginning of the key's digest: the holder of a key can compute its id, but the key can't be computed
 * from its id.
 */
import { randomBytes, timingSafeEqual } from 'node:crypto';
import { join } from 'node:path';
import { z } from 'zod';
import type { Clock } from '../../base/clock.ts';
import type { Log } from '../../base/log.ts';
import { isAtMost } from '../../base/text/characters.ts';
import { type Caller, keyDigest } from './callers.ts';
import { TenantError } from './errors.ts';
import { JsonFiles, WatchedFiles } from './files.ts';
import { TENANT_LIMITS, TENANT_NAME } from './limits.ts';

const ID_HEX_DIGITS = 12;
const KEY_BYTES = 24;
const ID = /^[0-9a-f]{12}$/;

const keyFile = z
  .object({
    id: z.string().regex(ID),
    tenant: z.string().regex(TENANT_NAME),
    /** Label for people. */
    name: z.string().nullable(),
    sha256: z.string().regex(/^[0-9a-f]{64}$/),
    createdAtMs: z.number(),
    revokedAtMs: z.number().nullable(),
  })
  .refine(({ id, sha256 }) => sha256.startsWith(id), 'its digest is of another key');
type KeyFile = z.infer<typeof keyFile>;
/** A key as its owner may see it. */
export type KeyInfo = Omit<KeyFile, 'sha256'>;

const filesOf = (homeDir: string): JsonFiles<KeyFile> =>
  new JsonFiles({ dir: join(homeDir, 'keys'), what: 'the key', name: ID, schema: keyFile, nameOf: ({ id }) => id });

/** Used for a directory that can't be read. */
const NOTHING = { values: [], ignored: new Set<string>(), version: 0 };

/** The keys of a home, for the commands. */
export class KeyStore {
  readonly #files: JsonFiles<KeyFile>;
  readonly #clock: Clock;

  constructor(homeDir: string, clock: Clock) {
    this.#files = filesOf(homeDir);
    this.#clock = clock;
  }

  /**
   * Creates a key, which exists afterwards only in the answer.
   * @throws TenantError `invalid`, `too_many`, `file_failed`
   */
  create(tenant: string, name: string | null): { readonly info: KeyInfo; readonly key: string } {
    checkTenantName(tenant);
    if (name !== null && (name === '' || !isAtMost(name, TENANT_LIMITS.keyLabelCharactersMax))) {
      const text = `a key's name has 1 to ${TENANT_LIMITS.keyLabelCharactersMax} characters`;
      throw new TenantError('invalid', text);
    }
    if (this.#files.names().length >= TENANT_LIMITS.keysMax) {
      throw new TenantError('too_many', `the home has ${TENANT_LIMITS.keysMax} keys, the maximum`, {
        remedy: `remove files of revoked keys from ${this.#files.dir}`,
      });
    }
    // Clients of E2B up to version 2.45 accept only keys of this form.
    const key = `e2b_${randomBytes(KEY_BYTES).toString('hex')}`;
    const sha256 = keyDigest(key).toString('hex');
    const id = sha256.slice(0, ID_HEX_DIGITS);
    const createdAtMs = Math.round(this.#clock.wall());
    const file = { id, tenant, name, sha256, createdAtMs, revokedAtMs: null };
    this.#files.write(file);
    return { info: infoOf(file), key };
  }

  /** Oldest first, including revoked ones. @throws TenantError `file_failed` */
  list(): readonly KeyInfo[] {
    return this.#files
      .names()
      .map((id) => infoOf(this.#files.read(id)))
      .sort((a, b) => a.createdAtMs - b.createdAtMs || (a.id < b.id ? -1 : 1));
  }

  /** The daemon refuses the key from now on. Does nothing if it is already revoked. @throws TenantError `not_found` */
  revoke(id: string): KeyInfo {
    if (!this.#files.names().includes(id)) {
      throw new TenantError('not_found', `there is no key ${id}`, { remedy: 'neurovisor key ls' });
    }
    const file = this.#files.read(id);
    if (file.revokedAtMs !== null) return infoOf(file);
    const revoked = { ...file, revokedAtMs: Math.round(this.#clock.wall()) };
    this.#files.write(revoked);
    return infoOf(revoked);
  }
}

/** The keys as a running daemon knows them. */
export class KnownKeys {
  readonly #files: WatchedFiles<KeyFile>;
  #byDigest: ReadonlyMap<string, KeyFile> = new Map();
  #ignored: ReadonlySet<string> = new Set();
  #version = 0;

  constructor(homeDir: string, clock: Clock, log: Log) {
    this.#files = new WatchedFiles(filesOf(homeDir), clock, log);
  }

  /** The owner of a key; `null` for an unknown or revoked one, and while the files can't be read. Never throws. */
  identify(key: string): Caller | null {
    this.#refresh();
    const digest = keyDigest(key);
    const found = this.#byDigest.get(digest.toString('hex'));
    // Takes the same time whether or not such a key exists.
    const isSame = timingSafeEqual(digest, Buffer.from(found?.sha256 ?? NO_DIGEST, 'hex'));
    const isUsable = isSame && found !== undefined && found.revokedAtMs === null;
    return isUsable ? { tenant: found.tenant, key: found.id } : null;
  }

  /**
   * Distinguishes a tenant from an earlier one of the same name by its oldest valid key, so it also changes when that
   * is revoked. Never throws.
   */
  incarnationOf(tenant: string): string {
    this.#refresh();
    const valid = [...this.#byDigest.values()].filter((one) => one.tenant === tenant && one.revokedAtMs === null);
    valid.sort((a, b) => a.createdAtMs - b.createdAtMs || (a.id < b.id ? -1 : 1));
    // Names of tenants contain no space.
    return `${tenant} ${valid[0]?.id ?? ''}`;
  }

  /** True if a valid key exists, or this is unknown. Never throws. */
  hasTenants(): boolean {
    if (!this.#refresh() || this.#ignored.size > 0) return true;
    return [...this.#byDigest.values()].some((one) => one.revokedAtMs === null);
  }

  /** True for a key that was revoked or whose file is gone; false while its file can't be read. Never throws. */
  isRevoked(id: string): boolean {
    if (!this.#refresh() || this.#ignored.has(id)) return false;
    return ![...this.#byDigest.values()].some((one) => one.id === id && one.revokedAtMs === null);
  }

  /** While it is unknown whether keys are revoked, none is accepted. @returns false if it is unknown */
  #refresh(): boolean {
    const current = this.#files.current();
    const { values, ignored, version } = current ?? NOTHING;
    this.#ignored = ignored;
    if (version === this.#version) return current !== null;
    this.#byDigest = new Map(values.map((file) => [file.sha256, file]));
    this.#version = version;
    return current !== null;
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

function infoOf({ sha256: _secret, ...info }: KeyFile): KeyInfo {
  return info;
}
