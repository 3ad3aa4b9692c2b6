/**
 * Encryption of the requests in rows, whose variables may be users' secrets: AES-256-GCM with a key in a file of the
 * owner's.
 *
 *     {"sealed": base64(nonce ‖ ciphertext ‖ tag), "key": id of the key}
 *
 * Each text is bound to its sandbox's id, so it can't be moved to another row. A copy of the store without the key, such
 * as a backup or a stolen disk with `data/`, discloses no secret. Any process that can read as this user has the key, too.
 */
import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto';
import { z } from 'zod';
import { tryOr } from '../../base/ignore.ts';
import { createOnce, readPrivate } from '../../base/key-file.ts';
import { isDiskFull, StoreError } from './errors.ts';

const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const KEY_ID_CHARACTERS = 16;
/** Separates these texts from any other use of the key. */
const PURPOSE = 'neurovisor sandbox request 1';

const sealedSchema = z.strictObject({ sealed: z.base64(), key: z.string() });

export interface Sealing {
  /** Identifies the key without disclosing it. */
  readonly keyId: string;
  /** The key was just created, so an older version may have left plain text. */
  readonly isNew: boolean;
  /** @returns JSON */
  seal(text: string, id: string): string;
  /** @returns `null` if sealed with another key or for another id, or altered */
  unseal(json: string, id: string): string | null;
}

/**
 * Opens the key file, or creates it.
 * @throws StoreError `store_unavailable`; a Node error if the disk is full
 */
export async function openSealing(keyPath: string): Promise<Sealing> {
  const known = readKey(keyPath);
  if (known !== undefined) return sealingWith(known);
  const { key, isNew } = await makeKey(keyPath);
  return sealingWith(key, isNew);
}

export function sealingWith(key: Uint8Array, isNew = false): Sealing {
  const keyId = createHash('sha256').update(key).digest('hex').slice(0, KEY_ID_CHARACTERS);
  const context = (id: string): Buffer => Buffer.from(`${PURPOSE}\n${id}`);
  return {
    keyId,
    isNew,
    seal(text, id) {
      const nonce = randomBytes(NONCE_BYTES);
      const cipher = createCipheriv('aes-256-gcm', key, nonce).setAAD(context(id));
      const parts = [nonce, cipher.update(text, 'utf8'), cipher.final(), cipher.getAuthTag()];
      return JSON.stringify({ sealed: Buffer.concat(parts).toString('base64'), key: keyId });
    },
    unseal(json, id) {
      const found = sealedSchema.safeParse(JSON.parse(json));
      if (!found.success || found.data.key !== keyId) return null;
      const bytes = Buffer.from(found.data.sealed, 'base64');
      if (bytes.length < NONCE_BYTES + TAG_BYTES) return null;
      const decipher = createDecipheriv('aes-256-gcm', key, bytes.subarray(0, NONCE_BYTES))
        .setAAD(context(id))
        .setAuthTag(bytes.subarray(-TAG_BYTES));
      return tryOr(null, 'it was altered, or belongs to another row', () => {
        const text = decipher.update(bytes.subarray(NONCE_BYTES, -TAG_BYTES));
        return Buffer.concat([text, decipher.final()]).toString('utf8');
      });
    },
  };
}

/** @returns undefined if there is no key */
function readKey(path: string): Buffer | undefined {
  const key = readPrivate(path, KEY_BYTES, unusable);
  if (key === undefined || key.length === KEY_BYTES) return key;
  throw unusable(path, `it does not have ${KEY_BYTES} bytes`);
}

async function makeKey(path: string): Promise<{ readonly key: Buffer; readonly isNew: boolean }> {
  const key = randomBytes(KEY_BYTES);
  try {
    if (await createOnce(path, key)) return { key, isNew: true };
  } catch (error) {
    throw isDiskFull(error) ? error : unusable(path, error);
  }
  const other = readKey(path);
  if (other !== undefined) return { key: other, isNew: false };
  throw unusable(path, 'another process removed it');
}

function unusable(path: string, cause: unknown, remedy?: string): StoreError {
  return new StoreError('store_unavailable', `could not use the key ${path} of the store`, {
    cause,
    remedy:
      remedy ??
      `Check its owner and mode (600), or put back a copy. Without it, paused sandboxes can't be resumed: remove ${path} to give them up.`,
  });
}
