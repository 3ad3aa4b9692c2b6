/**
 * The keys that encrypt saves: one for each owner of sandboxes.
 *
 *     <dir>/<owner>     the key, sealed with the store's key (`sealing.ts`); 0600
 *
 * A save names its key by owner and fingerprint, so that a later key of the same owner is not taken for it. Without its
 * key a save can't be read, so an owner is forgotten by erasing one small file. Nothing is cached: another process may
 * do that.
 */
import { createHash, randomBytes } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { tryOr } from '../../base/ignore.ts';
import { createOnce, KEY_FILE_NAME, ownerKeyPath, readPrivate } from '../../base/key-file.ts';
import { SEAL_KEY_BYTES } from '../../sys/sealed-file.ts';
import { isDiskFull, StoreError } from './errors.ts';
import type { Sealing } from './sealing.ts';

/** A sealed key has about 150. */
const FILE_BYTES_MAX = 1024;
const FINGERPRINT_CHARACTERS = 16;

export interface OwnerKey {
  /** `<owner>:<fingerprint>`; discloses nothing of the key. */
  readonly id: string;
  /** For AES-256. */
  readonly bytes: Uint8Array;
}

export class OwnerKeys {
  readonly #dir: string;
  readonly #sealing: Sealing;

  /** @param dir created when the first key is */
  constructor(dir: string, sealing: Sealing) {
    this.#dir = dir;
    this.#sealing = sealing;
  }

  /** The owner's key, made if there is none. @throws StoreError `store_unavailable`, `disk_full` */
  async of(owner: string): Promise<OwnerKey> {
    const path = ownerKeyPath(this.#dir, owner);
    const name = basename(path);
    try {
      await mkdir(this.#dir, { recursive: true, mode: 0o700 });
      // Another process may make or erase it at the same time.
      for (;;) {
        const key = this.#read(name);
        if (key !== undefined) return key;
        const sealed = this.#sealing.seal(randomBytes(SEAL_KEY_BYTES).toString('base64'), contextOf(name));
        await createOnce(path, Buffer.from(sealed));
      }
    } catch (error) {
      if (error instanceof StoreError || isDiskFull(error)) throw error;
      throw unusable(path, error);
    }
  }

  /** @returns undefined if it was erased. @throws StoreError `store_unavailable` */
  withId(id: string): OwnerKey | undefined {
    const [name = ''] = id.split(':');
    if (!KEY_FILE_NAME.test(name)) return undefined;
    const key = this.#read(name);
    return key?.id === id ? key : undefined;
  }

  /** File of the key with this id, for messages. */
  pathOf(id: string): string {
    return join(this.#dir, id.split(':')[0] ?? '');
  }

  #read(name: string): OwnerKey | undefined {
    const path = join(this.#dir, name);
    const found = readPrivate(path, FILE_BYTES_MAX, unusable);
    if (found === undefined) return undefined;
    const text = tryOr(null, 'reported as an unusable key', () =>
      this.#sealing.unseal(found.toString('utf8'), contextOf(name)),
    );
    const bytes = Buffer.from(text ?? '', 'base64');
    if (bytes.length !== SEAL_KEY_BYTES) throw unusable(path, 'it was altered, or sealed with another data.key');
    const fingerprint = createHash('sha256').update(bytes).digest('hex').slice(0, FINGERPRINT_CHARACTERS);
    return { id: `${name}:${fingerprint}`, bytes };
  }
}

const contextOf = (name: string): string => `key of owner ${name}`;

function unusable(path: string, cause: unknown, remedy?: string): StoreError {
  return new StoreError('store_unavailable', `could not use the key ${path} of an owner`, {
    cause,
    remedy:
      remedy ??
      `Check its owner and mode (600), or put back a copy of it and of data.key. Remove ${path} to give up what it encrypts.`,
  });
}
