/**
 * Keys of tenants: one file per key in the home, without the key itself.
 *
 *     HOME/keys/ID.json     {id, tenant, name, sha256, createdAtMs, expiresAtMs, revokedAtMs}
 *
 * The id is the beginning of the key's digest: the holder of a key can compute its id, but the key can't be computed
 * from its id.
 */
import { randomBytes, timingSafeEqual } from 'node:crypto';
import { join } from 'node:path';
import { z } from 'zod';
import type { Clock } from '../../base/clock.ts';
import { Listeners } from '../../base/listeners.ts';
import { isAtMost } from '../../base/text/characters.ts';
import { type Caller, keyDigest } from './callers.ts';
import { TenantError } from './errors.ts';
import { JsonFiles } from './files.ts';
import { TENANT_LIMITS, TENANT_NAME } from './limits.ts';
import { checkTenantName } from './owner.ts';

const ID_HEX_DIGITS = 12;
const KEY_BYTES = 24;
const EXPIRY_LOOK_MS = 60_000;
const ID = /^[0-9a-f]{12}$/;

const keyFile = z
  .object({
    id: z.string().regex(ID),
    tenant: z.string().regex(TENANT_NAME),
    /** Label for people. */
    name: z.string().nullable(),
    sha256: z.string().regex(/^[0-9a-f]{64}$/),
    createdAtMs: z.number(),
    /** Refused from then on; null: never. Older files have none. */
    expiresAtMs: z.number().nullable().default(null),
    revokedAtMs: z.number().nullable(),
  })
  .refine(({ id, sha256 }) => sha256.startsWith(id), 'its digest is of another key');
type KeyFile = z.infer<typeof keyFile>;
/** A key as its owner may see it. */
export type KeyInfo = Omit<KeyFile, 'sha256'>;

const filesOf = (homeDir: string): JsonFiles<KeyFile> =>
  new JsonFiles({ dir: join(homeDir, 'keys'), what: 'the key', name: ID, schema: keyFile, nameOf: ({ id }) => id });

/** A new key, which exists afterwards only with its owner. */
export interface CreatedKey extends KeyInfo {
  readonly key: string;
}

/** The keys of a home. Reads its files once; only this object changes them afterwards. */
export class KeyStore {
  readonly #files: JsonFiles<KeyFile>;
  readonly #clock: Clock;
  readonly #byDigest: Map<string, KeyFile>;
  readonly #ends = new Listeners<string>();
  #stopTimer: () => void = () => undefined;

  /** @throws TenantError `file_failed` */
  constructor(homeDir: string, clock: Clock) {
    this.#files = filesOf(homeDir);
    this.#clock = clock;
    this.#byDigest = new Map(this.#files.readAll().map((file) => [file.sha256, file]));
  }

  /**
   * @param expiresInMs null: it never expires
   * @throws TenantError `invalid`, `too_many`, `file_failed`
   */
  create(tenant: string, name: string | null, expiresInMs: number | null = null): CreatedKey {
    checkTenantName(tenant);
    const { min, max } = TENANT_LIMITS.keyLifetimeMs;
    if (expiresInMs !== null && !(expiresInMs >= min && expiresInMs <= max)) {
      throw new TenantError('invalid', 'a key expires after a second to ten years');
    }
    if (name !== null && (name === '' || !isAtMost(name, TENANT_LIMITS.keyLabelCharactersMax))) {
      const text = `a key's name has 1 to ${TENANT_LIMITS.keyLabelCharactersMax} characters`;
      throw new TenantError('invalid', text);
    }
    if (this.#byDigest.size >= TENANT_LIMITS.keysMax) {
      throw new TenantError('too_many', `the home has ${TENANT_LIMITS.keysMax} keys, the maximum`, {
        remedy: `stop the daemon, and remove files of revoked keys from ${this.#files.dir}`,
      });
    }
    // Clients of E2B up to version 2.45 accept only keys of this form.
    const key = `e2b_${randomBytes(KEY_BYTES).toString('hex')}`;
    const sha256 = keyDigest(key).toString('hex');
    const id = sha256.slice(0, ID_HEX_DIGITS);
    const createdAtMs = Math.round(this.#clock.wall());
    const expiresAtMs = expiresInMs === null ? null : createdAtMs + Math.round(expiresInMs);
    const file = { id, tenant, name, sha256, createdAtMs, expiresAtMs, revokedAtMs: null };
    this.#write(file);
    return { ...infoOf(file), key };
  }

  /** Oldest first, including revoked ones. */
  list(): readonly KeyInfo[] {
    return [...this.#byDigest.values()].sort(byAge).map(infoOf);
  }

  /** Refused from now on. Does nothing if it is already revoked. @throws TenantError `not_found`, `file_failed` */
  revoke(id: string): KeyInfo {
    const file = [...this.#byDigest.values()].find((one) => one.id === id);
    if (file === undefined) {
      throw new TenantError('not_found', `there is no key ${id}`, { remedy: 'neurovisor key ls' });
    }
    if (file.revokedAtMs !== null) return infoOf(file);
    const revoked = { ...file, revokedAtMs: Math.round(this.#clock.wall()) };
    this.#write(revoked);
    this.#ends.emit(id);
    return infoOf(revoked);
  }

  /** Calls the listener with the id of each key that is revoked or expires from now on. Returns a function that stops it. */
  onEnd(listener: (id: string) => void): () => void {
    const stop = this.#ends.listen(listener);
    this.#awaitExpiry();
    return stop;
  }

  /** The owner of a key; `null` for an unknown, revoked or expired one. Never throws. */
  identify(key: string): Caller | null {
    const digest = keyDigest(key);
    const found = this.#byDigest.get(digest.toString('hex'));
    // Takes the same time whether or not such a key exists.
    const isSame = timingSafeEqual(digest, Buffer.from(found?.sha256 ?? NO_DIGEST, 'hex'));
    const isUsable = isSame && found !== undefined && this.isValid(found);
    return isUsable ? { tenant: found.tenant, key: found.id } : null;
  }

  /**
   * Distinguishes a tenant from an earlier one of the same name by its oldest valid key, so it also changes when that
   * is revoked.
   */
  incarnationOf(tenant: string): string {
    const [oldest] = this.#valid()
      .filter((one) => one.tenant === tenant)
      .sort(byAge);
    // Names of tenants contain no space.
    return `${tenant} ${oldest?.id ?? ''}`;
  }

  /** Whether a valid key exists. */
  hasTenants(): boolean {
    return this.#valid().length > 0;
  }

  /** Whether it is neither revoked nor expired. */
  isValid(key: Pick<KeyInfo, 'revokedAtMs' | 'expiresAtMs'>): boolean {
    return isValidKey(key, this.#clock.wall());
  }

  #valid(): KeyFile[] {
    return [...this.#byDigest.values()].filter((file) => this.isValid(file));
  }

  /** Tells of the next expiry, and waits for the one after. The wall clock may be set, so no wait is long. */
  #awaitExpiry(): void {
    this.#stopTimer();
    if (this.#ends.size === 0) return;
    const now = this.#clock.wall();
    const coming = this.#valid().filter(({ expiresAtMs }) => expiresAtMs !== null);
    const nextMs = Math.min(...coming.map(({ expiresAtMs }) => expiresAtMs ?? Number.POSITIVE_INFINITY));
    if (!Number.isFinite(nextMs)) return;
    this.#stopTimer = this.#clock.after(Math.min(nextMs - now, EXPIRY_LOOK_MS), () => {
      const ended = coming.filter((file) => !this.isValid(file));
      for (const { id } of ended) this.#ends.emit(id);
      this.#awaitExpiry();
    });
  }

  #write(file: KeyFile): void {
    this.#files.write(file);
    this.#byDigest.set(file.sha256, file);
    this.#awaitExpiry();
  }
}

/** @param now milliseconds since 1970 */
export const isValidKey = (key: Pick<KeyInfo, 'revokedAtMs' | 'expiresAtMs'>, now: number): boolean =>
  key.revokedAtMs === null && (key.expiresAtMs === null || key.expiresAtMs > now);

const byAge = (a: KeyFile, b: KeyFile): number => a.createdAtMs - b.createdAtMs || (a.id < b.id ? -1 : 1);

const NO_DIGEST = '0'.repeat(64);

function infoOf({ sha256: _secret, ...info }: KeyFile): KeyInfo {
  return info;
}
