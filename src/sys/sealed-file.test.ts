import { randomBytes } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MIB } from '../base/units.ts';
import { SEAL_KEY_BYTES, sealFile, unsealInto, unsealNew } from './sealed-file.ts';

const PAGE_BYTES = 4096;
const KEY = randomBytes(SEAL_KEY_BYTES);
const TEXT = 'a secret of the guest';
const DAMAGED = { code: 'sealed_damaged', message: expect.stringContaining('could not decrypt a file') };
let dir = '';
let plain = '';
let sealed = '';
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-sealed-'));
  [plain, sealed] = [join(dir, 'plain'), join(dir, 'sealed')];
});
afterEach(() => rmSync(dir, { recursive: true }));

/** Two pieces of data around a hole, and an end within a page. */
function sparseFile(): Buffer {
  const bytes = Buffer.alloc(3 * MIB + 100);
  bytes.write(TEXT, 5 * PAGE_BYTES);
  randomBytes(2 * PAGE_BYTES).copy(bytes, MIB - PAGE_BYTES);
  bytes.write(TEXT, 3 * MIB + 50);
  writeFileSync(plain, bytes);
  return bytes;
}

const restored = async (key: Uint8Array = KEY): Promise<Buffer> => {
  const to = join(dir, 'restored');
  await unsealNew(sealed, to, key);
  const bytes = readFileSync(to);
  rmSync(to);
  return bytes;
};

describe('sealFile', () => {
  it('restores the file, and has neither its text nor its zeros', async () => {
    const bytes = sparseFile();
    await sealFile(plain, sealed, KEY);
    expect(readFileSync(plain).includes(TEXT)).toBe(true);
    expect(readFileSync(sealed).includes(TEXT)).toBe(false);
    expect(statSync(sealed).size).toBeLessThan(5 * PAGE_BYTES);
    expect(statSync(sealed).mode & 0o777).toBe(0o600);
    expect((await restored()).equals(bytes)).toBe(true);
  });

  it.each([0, 1, PAGE_BYTES, MIB, MIB + 1])('restores %d bytes without a zero', async (size) => {
    const bytes = Buffer.alloc(size, 7);
    writeFileSync(plain, bytes);
    await sealFile(plain, sealed, KEY);
    expect((await restored()).equals(bytes)).toBe(true);
  });

  it('two files with the same content have nothing in common but the header', async () => {
    sparseFile();
    const other = join(dir, 'other');
    for (const to of [sealed, other]) await sealFile(plain, to, KEY);
    const [one, two] = [sealed, other].map((path) => readFileSync(path).subarray(24, 24 + 2 * PAGE_BYTES));
    for (let at = 0; at + 16 <= (one?.length ?? 0); at += 16) {
      if (one?.subarray(at, at + 16).some((byte) => byte !== 0))
        expect(two?.includes(one.subarray(at, at + 16))).toBe(false);
    }
  });

  it('leaves no file if it fails', async () => {
    await expect(sealFile(dir, sealed, KEY)).rejects.toThrow('EISDIR');
    expect(readdirSync(dir)).toEqual([]);
  });

  it('does not replace a file', async () => {
    sparseFile();
    writeFileSync(sealed, 'other');
    await expect(sealFile(plain, sealed, KEY)).rejects.toMatchObject({ code: 'EEXIST' });
    expect(readFileSync(sealed, 'utf8')).toBe('other');
  });
});

describe('unsealNew, unsealInto', () => {
  it('fills a file of the same size, or an empty one', async () => {
    const bytes = sparseFile();
    await sealFile(plain, sealed, KEY);
    for (const size of [bytes.length, 0]) {
      const to = join(dir, `of-${size}`);
      writeFileSync(to, '');
      truncateSync(to, size);
      await unsealInto(sealed, to, KEY);
      expect(readFileSync(to).equals(bytes)).toBe(true);
    }
    const small = join(dir, 'small');
    writeFileSync(small, 'x');
    await expect(unsealInto(sealed, small, KEY)).rejects.toMatchObject(DAMAGED);
  });

  it('another key: refused, and nothing is left', async () => {
    sparseFile();
    await sealFile(plain, sealed, KEY);
    await expect(restored(randomBytes(SEAL_KEY_BYTES))).rejects.toMatchObject(DAMAGED);
    expect(readdirSync(dir).sort()).toEqual(['plain', 'sealed']);
  });

  it('every flipped bit and every cut is refused', async () => {
    writeFileSync(plain, TEXT);
    await sealFile(plain, sealed, KEY);
    const whole = readFileSync(sealed);
    for (let at = 0; at < whole.length; at += 1) {
      const flipped = Buffer.from(whole);
      flipped.writeUInt8(whole.readUInt8(at) ^ (1 << (at % 8)), at);
      for (const bytes of [flipped, whole.subarray(0, at)]) {
        writeFileSync(sealed, bytes);
        await expect(restored()).rejects.toMatchObject(DAMAGED);
      }
    }
    writeFileSync(sealed, Buffer.concat([whole, Buffer.alloc(1)]));
    await expect(restored()).rejects.toMatchObject(DAMAGED);
  });

  it('records can not be left out, moved or come from another file', async () => {
    writeFileSync(plain, randomBytes(2 * MIB));
    await sealFile(plain, sealed, KEY);
    const whole = readFileSync(sealed);
    const record = 12 + 32 + MIB + 16;
    const [header, first, second, end] = [0, 56, 56 + record, 56 + 2 * record].map((at, index, all) =>
      whole.subarray(at, all[index + 1]),
    ) as [Buffer, Buffer, Buffer, Buffer];
    const other = join(dir, 'other');
    await sealFile(plain, other, KEY);
    const foreign = readFileSync(other).subarray(56 + record, 56 + 2 * record);
    const wrong = [
      [header, first, end],
      [header, second, first, end],
      [header, first, foreign, end],
      [header, first, second],
      [header, first, second, end, end],
    ];
    for (const parts of wrong) {
      writeFileSync(sealed, Buffer.concat(parts));
      await expect(restored()).rejects.toMatchObject(DAMAGED);
    }
    writeFileSync(sealed, whole);
    expect((await restored()).length).toBe(2 * MIB);
  });
});
