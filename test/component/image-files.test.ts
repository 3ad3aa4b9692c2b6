/** Verified files and the disks of sandboxes. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { open, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  createOverlay,
  formatOverlay,
  OVERLAY_BYTES,
  prepareOverlayTemplate,
} from '../../src/artifacts/image/overlay.ts';
import { digestFile, verifyImage } from '../../src/artifacts/image/verify.ts';
import { MIB } from '../../src/base/units.ts';
import { dataExtents } from '../../src/sys/file.ts';
import { temporaryDirectory } from '../support/image.ts';

const occupiedBytes = async (path: string): Promise<number> => (await stat(path)).blocks * 512;
const checkFilesystem = (path: string): string =>
  execFileSync('/sbin/e2fsck', ['-f', '-n', path], { encoding: 'utf8', stdio: 'pipe' });

/** Digest of the blocks that are not zero, with their positions: independent of holes. */
async function digestData(path: string): Promise<string> {
  const hash = createHash('sha256');
  const zeros = Buffer.alloc(4096);
  const file = await open(path, 'r');
  for (const { start, end } of dataExtents(file.fd)) {
    for (let at = start; at < end; at += zeros.length) {
      const { buffer } = await file.read(Buffer.alloc(zeros.length), 0, zeros.length, at);
      if (!buffer.equals(zeros)) hash.update(`${at}:`).update(buffer);
    }
  }
  await file.close();
  return hash.digest('hex');
}

async function flipByte(path: string, at: number): Promise<void> {
  const file = await open(path, 'r+');
  const byte = Buffer.alloc(1);
  await file.read(byte, 0, 1, at);
  byte[0] = (byte[0] ?? 0) ^ 1;
  await file.write(byte, 0, 1, at);
  await file.close();
}

describe('verifyImage (R-G-5)', () => {
  it('accepts the unchanged file, and refuses it with one flipped byte', async () => {
    const path = join(await temporaryDirectory(), 'image');
    await writeFile(path, Buffer.alloc(MIB, 7));
    const digest = await digestFile(path);
    expect(await verifyImage(path, digest)).toBe('hashed');
    await flipByte(path, 777_777);
    await expect(verifyImage(path, digest)).rejects.toMatchObject({ code: 'artifact_altered' });
    await flipByte(path, 777_777);
    expect(await verifyImage(path, digest)).toBe('hashed');
  });

  it('gives no stamp to a file that has just changed', async () => {
    const path = join(await temporaryDirectory(), 'image');
    await writeFile(path, 'x');
    const digest = await digestFile(path);
    expect(await verifyImage(path, digest)).toBe('hashed');
    expect(await verifyImage(path, digest)).toBe('hashed');
  });

  it('hashes a settled file once, and again after a byte was flipped', async () => {
    const path = join(await temporaryDirectory(), 'image');
    await writeFile(path, 'content');
    const digest = await digestFile(path);
    // ctime can't be set back, so the file has to grow old enough for a stamp.
    await expect.poll(() => verifyImage(path, digest), { interval: 500 }).toBe('stamp');
    await flipByte(path, 3);
    await expect(verifyImage(path, digest)).rejects.toMatchObject({ code: 'artifact_altered' });
  });

  it('ignores a stamp for another digest, and a broken one', async () => {
    const path = join(await temporaryDirectory(), 'image');
    await writeFile(path, 'content');
    await writeFile(`${path}.verified`, '{"digest":"0"}\n');
    await expect(verifyImage(path, '0')).rejects.toMatchObject({ code: 'artifact_altered' });
  });

  it('refuses a missing file', async () => {
    const path = join(await temporaryDirectory(), 'none');
    await expect(verifyImage(path, '0')).rejects.toMatchObject({ code: 'artifact_altered' });
  });
});

describe('createOverlay', () => {
  it('copies the template: same content, sparse, a valid filesystem', async () => {
    const dir = await temporaryDirectory();
    const template = await prepareOverlayTemplate(dir);
    const target = join(dir, 'disk');
    await createOverlay(template, target, OVERLAY_BYTES);
    expect((await stat(target)).size).toBe(OVERLAY_BYTES);
    expect(await occupiedBytes(target)).toBeLessThan(4 * MIB);
    expect(checkFilesystem(target)).toMatch(/11\/\d+ files/);
    expect(await digestData(target)).toBe(await digestData(template));
  });

  it('formats a disk whose size differs from the template’s', async () => {
    const dir = await temporaryDirectory();
    const template = await prepareOverlayTemplate(dir);
    const target = join(dir, 'disk');
    await createOverlay(template, target, 64 * MIB);
    expect((await stat(target)).size).toBe(64 * MIB);
    expect(checkFilesystem(target)).toMatch(/11\/\d+ files/);
  });

  it('does not overwrite an existing disk', async () => {
    const dir = await temporaryDirectory();
    const template = await prepareOverlayTemplate(dir);
    const target = join(dir, 'disk');
    await writeFile(target, 'mine');
    await expect(createOverlay(template, target, OVERLAY_BYTES)).rejects.toThrow();
    await expect(createOverlay(template, target, 64 * MIB)).rejects.toThrow();
    expect(await readFile(target, 'utf8')).toBe('mine');
  });

  it('refuses a size too small for a filesystem, and leaves no file', async () => {
    const dir = await temporaryDirectory();
    for (const size of [0, -1, 1.5, 4096]) {
      await expect(formatOverlay(join(dir, 'disk'), size)).rejects.toMatchObject({ code: 'source_invalid' });
    }
    expect(await readdir(dir)).toEqual([]);
  });
});

describe('prepareOverlayTemplate', () => {
  it('is made once, identical on every host, and made again when changed', async () => {
    const dir = await temporaryDirectory();
    const path = await prepareOverlayTemplate(dir);
    const made = await stat(path);
    expect(await prepareOverlayTemplate(dir)).toBe(path);
    expect((await stat(path)).ino).toBe(made.ino);
    await flipByte(path, 2000);
    expect(await prepareOverlayTemplate(dir)).toBe(path);
    const elsewhere = await prepareOverlayTemplate(await temporaryDirectory());
    expect(await digestData(path)).toBe(await digestData(elsewhere));
  });
});

describe('dataExtents', () => {
  it('finds data between holes, and none in an empty or all-hole file', async () => {
    const path = join(await temporaryDirectory(), 'sparse');
    const file = await open(path, 'w+');
    expect(dataExtents(file.fd)).toEqual([]);
    await file.truncate(8 * MIB);
    expect(dataExtents(file.fd)).toEqual([]);
    await file.write(Buffer.alloc(4096, 1), 0, 4096, 2 * MIB);
    const extents = dataExtents(file.fd);
    expect(extents.some((e) => e.start <= 2 * MIB && e.end >= 2 * MIB + 4096)).toBe(true);
    await file.close();
  });
});
