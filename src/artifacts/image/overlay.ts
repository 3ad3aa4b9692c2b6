/**
 * The disk of one sandbox: an empty ext4 file system, the upper layer over the golden image. A template is created once
 * and copied by its data extents: about 200 KB for 2 GiB, in a millisecond or two.
 */
import { randomUUID } from 'node:crypto';
import { type FileHandle, mkdir, open, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ignore } from '../../base/ignore.ts';
import { GIB, MIB } from '../../base/units.ts';
import { cloneSparse } from '../../sys/sparse.ts';
import { ImageError } from './errors.ts';
import { runTool } from './tool.ts';
import { identify } from './verify.ts';

/** Size of the template, and default size of a sandbox's disk. */
export const OVERLAY_BYTES = 2 * GIB;
/** Increment when the format changes. */
const TEMPLATE_VERSION = 1;
const OVERLAY_BYTES_MIN = 16 * MIB;

/** Constant, so that two builds are identical. A disk is used in one VM only, so it need not be unique. */
const UUID = '6e657572-6f76-4973-8f72-6f7665726c61';
/** Time in the superblock: 2026-01-01, in seconds. */
const EPOCH_SECONDS = '1767225600';

/**
 * Creates the template if it is missing or was changed. It has no digest in a manifest: creating it takes 10 ms,
 * hashing its 2 GiB two seconds.
 * @returns its path
 * @throws ImageError
 */
export async function prepareOverlayTemplate(cacheDir: string): Promise<string> {
  const dir = join(cacheDir, 'overlay');
  const path = join(dir, `template-${TEMPLATE_VERSION}.ext4`);
  const stampPath = `${path}.made`;
  const identity = await identify(path);
  const stamp = await readText(stampPath);
  if (identity !== undefined && stamp === JSON.stringify(identity)) return path;
  await mkdir(dir, { recursive: true });
  const temporary = `${path}.${randomUUID()}`;
  await formatOverlay(temporary, OVERLAY_BYTES);
  await rename(temporary, path);
  await writeFile(stampPath, JSON.stringify(await identify(path)));
  return path;
}

/**
 * Creates an empty disk for one sandbox at `targetPath`, which must not exist: a reflink of the template if the file
 * system supports it, else a sparse copy. A disk of another size is formatted instead (10 ms).
 * @throws ImageError `source_invalid` for a size too small for a file system; errors of the OS unchanged
 */
export async function createOverlay(templatePath: string, targetPath: string, sizeBytes: number): Promise<void> {
  const template = await stat(templatePath);
  if (template.size !== sizeBytes) return formatOverlay(targetPath, sizeBytes);
  await cloneSparse(templatePath, targetPath);
}

/**
 * Any failure leaves nothing at `targetPath`.
 * @param hasJournal for a disk that outlives its VM. Default: without one
 * @throws ImageError
 */
export async function formatOverlay(targetPath: string, sizeBytes: number, hasJournal = false): Promise<void> {
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < OVERLAY_BYTES_MIN) {
    throw new ImageError('source_invalid', `make a disk of ${sizeBytes} bytes`, {
      remedy: `Use at least ${OVERLAY_BYTES_MIN / MIB} MiB.`,
    });
  }
  await withNewFile(targetPath, async (file) => {
    await file.truncate(sizeBytes);
    // No journal: the disk ends with its VM, and a paused VM keeps its memory. No checksums: they are slow in software
    // emulation. Inode tables are zeroed now (as holes), or the guest would write them all later.
    const features = `${hasJournal ? '' : '^'}has_journal,^resize_inode,^metadata_csum,^64bit`;
    const extended = `lazy_itable_init=0,nodiscard,root_owner=0:0,hash_seed=${UUID}`;
    await runTool(
      'mkfs.ext4',
      ['-q', '-F', '-b', '4096', '-m', '0', '-U', UUID, '-O', features, '-E', extended, targetPath],
      { env: { E2FSPROGS_FAKE_TIME: EPOCH_SECONDS }, missingRemedy: 'Install e2fsprogs.' },
    );
  });
}

async function withNewFile(path: string, fill: (file: FileHandle) => Promise<void>): Promise<void> {
  const file = await open(path, 'wx', 0o600);
  try {
    await fill(file);
  } catch (error) {
    await rm(path, { force: true });
    throw error;
  } finally {
    await file.close();
  }
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    ignore(error, 'no stamp of an overlay template: make the template');
    return undefined;
  }
}
