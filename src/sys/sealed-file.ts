/**
 * Encrypted copies of sparse files, by AES-256-GCM (NIST SP 800-38D). Pages of zeros are left out.
 *
 *     header                              │ record, the next …                        │ end
 *     "NVsealed" · u32 version · u32 0    │ u64 offset · u32 bytes of the ciphertext  │ u64 size · u32 0
 *     u64 size of the file                │ encrypted: map of its pages ‖ pages       │
 *     32 bytes salt                       │ 16 bytes tag                              │ 16 bytes tag
 *
 * Each file has its own key: HKDF-SHA-256 of the owner's key, with the salt and the rest of the header. So a nonce is
 * only the record's number. Offset and length of a record are authenticated with it, and the end says that no record is
 * missing. Nothing is written of a record that does not verify.
 */
import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto';
import { readSync, writevSync } from 'node:fs';
import { type FileHandle, open, rm } from 'node:fs/promises';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { CodedError } from '../base/errors.ts';
import { tryOr } from '../base/ignore.ts';
import { PAGE_BYTES } from './memory.ts';
import { CHUNK_BYTES, eachChunk, nonZeroRuns, writeAll } from './sparse.ts';

/** Altered, cut off, or encrypted with another key. */
export class SealedFileError extends CodedError<'sealed_damaged'> {}

export const SEAL_KEY_BYTES = 32;

const CIPHER = 'aes-256-gcm';
const MAGIC = 'NVsealed';
const VERSION = 1;
const FACTS_BYTES = 24;
const SALT_BYTES = 32;
const HEADER_BYTES = FACTS_BYTES + SALT_BYTES;
const HEAD_BYTES = 12;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
/** One bit for each page of a chunk. */
const MAP_BYTES = CHUNK_BYTES / PAGE_BYTES / 8;

/** Encrypts into a new file, which has mode 0600; on failure nothing is left there. @param key 32 bytes */
export async function sealFile(from: string, to: string, key: Uint8Array): Promise<void> {
  await using source = await open(from, 'r');
  const { size } = await source.stat();
  await intoNew(to, async (target) => {
    const header = Buffer.concat([factsOf(size), randomBytes(SALT_BYTES)]);
    const fileKey = keyOfFile(key, header);
    let at = writeVector(target, [header], 0);
    let number = 0;
    const add = (offset: number, parts: readonly Uint8Array[]): void => {
      at = writeVector(target, sealRecord(fileKey, number, offset, parts), at);
      number += 1;
    };
    await eachChunk(source, (chunk, offset) => {
      const runs = nonZeroRuns(chunk);
      if (runs.length === 0) return;
      const map = Buffer.alloc(MAP_BYTES);
      for (const { start, end } of runs) {
        for (let page = start / PAGE_BYTES; page * PAGE_BYTES < end; page += 1) {
          map.writeUInt8(map.readUInt8(page >> 3) | (1 << (page & 7)), page >> 3);
        }
      }
      add(offset, [map, ...runs.map(({ start, end }) => chunk.subarray(start, end))]);
    });
    add(size, []);
  });
}

/** Decrypts into a new file; on failure nothing is left there. @throws SealedFileError */
export async function unsealNew(from: string, to: string, key: Uint8Array): Promise<void> {
  await using source = await open(from, 'r');
  await intoNew(to, (target) => unseal(source, target, key));
}

/**
 * Decrypts into an existing file of zeros with the size of the original, or an empty one. After a failure the file is
 * incomplete. @throws SealedFileError
 */
export async function unsealInto(from: string, to: string, key: Uint8Array): Promise<void> {
  await using source = await open(from, 'r');
  await using target = await open(to, 'r+');
  await unseal(source, target, key);
}

async function unseal(source: FileHandle, target: FileHandle, key: Uint8Array): Promise<void> {
  const header = readExactly(source, HEADER_BYTES, 0);
  const size = sizeIn(header);
  const { size: has } = await target.stat();
  if (has !== 0 && has !== size) throw damaged(`it is for ${size} bytes, not ${has}`);
  const fileKey = keyOfFile(key, header);
  let at = HEADER_BYTES;
  for (let number = 0; ; number += 1) {
    const head = readExactly(source, HEAD_BYTES, at);
    const bytes = head.readUInt32LE(8);
    if (bytes > MAP_BYTES + CHUNK_BYTES) throw damaged('a record is too long');
    const sealed = readExactly(source, bytes + TAG_BYTES, at + HEAD_BYTES);
    at += HEAD_BYTES + sealed.length;
    const plain = openRecord(fileKey, number, head, sealed);
    const offset = Number(head.readBigUInt64LE());
    if (bytes === 0) {
      if (offset !== size || (await source.stat()).size !== at) throw damaged('its end is elsewhere');
      // Not before: an altered size could be anything.
      await target.truncate(size);
      return;
    }
    writePages(target, offset, plain, size);
    await nextTurn();
  }
}

function writePages(target: FileHandle, offset: number, plain: Buffer, size: number): void {
  const map = plain.subarray(0, MAP_BYTES);
  let from = MAP_BYTES;
  for (let page = 0; page < MAP_BYTES * 8; page += 1) {
    if (((map[page >> 3] ?? 0) & (1 << (page & 7))) === 0) continue;
    const start = offset + page * PAGE_BYTES;
    const bytes = Math.min(PAGE_BYTES, size - start);
    if (bytes <= 0 || from + bytes > plain.length) throw damaged('a record is beyond its end');
    writeAll(target.fd, plain.subarray(from, from + bytes), start);
    from += bytes;
  }
}

function sealRecord(key: Uint8Array, number: number, offset: number, parts: readonly Uint8Array[]): Buffer[] {
  const head = Buffer.alloc(HEAD_BYTES);
  head.writeBigUInt64LE(BigInt(offset));
  head.writeUInt32LE(
    parts.reduce((sum, { length }) => sum + length, 0),
    8,
  );
  const cipher = createCipheriv(CIPHER, key, nonceOf(number)).setAAD(head);
  const sealed = parts.map((part) => cipher.update(part));
  return [head, ...sealed, cipher.final(), cipher.getAuthTag()];
}

/** @throws SealedFileError */
function openRecord(key: Uint8Array, number: number, head: Buffer, sealed: Buffer): Buffer {
  const decipher = createDecipheriv(CIPHER, key, nonceOf(number)).setAAD(head).setAuthTag(sealed.subarray(-TAG_BYTES));
  const plain = decipher.update(sealed.subarray(0, -TAG_BYTES));
  const isWhole = tryOr(false, 'reported as damage', () => decipher.final().length === 0);
  if (!isWhole) throw damaged('it was altered, or encrypted with another key');
  return plain;
}

function nonceOf(number: number): Buffer {
  const nonce = Buffer.alloc(NONCE_BYTES);
  nonce.writeUIntLE(number, 0, 6);
  return nonce;
}

function keyOfFile(key: Uint8Array, header: Buffer): Uint8Array {
  const [facts, salt] = [header.subarray(0, FACTS_BYTES), header.subarray(FACTS_BYTES)];
  return new Uint8Array(hkdfSync('sha256', key, salt, facts, SEAL_KEY_BYTES));
}

function factsOf(size: number): Buffer {
  const facts = Buffer.alloc(FACTS_BYTES);
  facts.write(MAGIC, 'latin1');
  facts.writeUInt32LE(VERSION, 8);
  facts.writeBigUInt64LE(BigInt(size), 16);
  return facts;
}

function sizeIn(header: Buffer): number {
  const size = Number(header.readBigUInt64LE(16));
  if (!Number.isSafeInteger(size) || !factsOf(size).equals(header.subarray(0, FACTS_BYTES))) {
    throw damaged('it is not an encrypted file of a known version');
  }
  return size;
}

async function intoNew(path: string, write: (target: FileHandle) => Promise<void>): Promise<void> {
  // O_EXCL: a new file, and not through a symbolic link.
  const target = await open(path, 'wx+', 0o600);
  try {
    await write(target);
    await target.close();
  } catch (error) {
    await target.close();
    await rm(path, { force: true });
    throw error;
  }
}

/** @returns the position after them */
function writeVector({ fd }: FileHandle, parts: Buffer[], at: number): number {
  const bytes = parts.reduce((sum, { length }) => sum + length, 0);
  const written = writevSync(fd, parts, at);
  // A disk that gets full may take a part; the rest then fails with the reason.
  if (written < bytes) writeAll(fd, Buffer.concat(parts).subarray(written), at + written);
  return at + bytes;
}

function readExactly({ fd }: FileHandle, bytes: number, at: number): Buffer {
  const buffer = Buffer.allocUnsafe(bytes);
  for (let done = 0; done < bytes; ) {
    const count = readSync(fd, buffer, done, bytes - done, at + done);
    if (count === 0) throw damaged('it is cut off');
    done += count;
  }
  return buffer;
}

const damaged = (how: string): SealedFileError =>
  new SealedFileError('sealed_damaged', `could not decrypt a file: ${how}`);
