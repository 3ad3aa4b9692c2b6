/**
 * The disk that belongs to one sandbox: an empty ext4 filesystem, the upper layer over the golden image.
 * A template is made once and copied by its data extents: about 200 KB for 2 GiB, in a millisecond or two.
 */
import {
  type FileHandle,
  mkdir,
  open,
  readFile,
  rename,
  rm,
  stat,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { ignore } from '../base/ignore.ts';
import { GIB, MIB } from '../base/units.ts';
import { cloneSparse } from '../sys/sparse.ts';
import { ImageError } from './errors.ts';
import { runTool } from './tool.ts';
import { identify } from './verify.ts';

/** Size of the template and of a sandbox's disk unless it asks for another, bytes. */
export const OVERLAY_BYTES = 2 * GIB;
/** Raise when the format changes. */
const TEMPLATE_VERSION = 1;
const OVERLAY_BYTES_MIN = 16 * MIB;

/** Same in every template, so that two builds are identical. A disk lives in one VM only: no one compares them. */
const UUID = '6e657572-6f76-4973-8f72-6f7665726c61';
/** 2026-01-01, seconds: the time in the superblock. */
const EPOCH_SECONDS = '1767225600';

/**
 * The template, made when it is not there or was touched since it was made. It has no digest in a manifest:
 * making it anew takes 10 ms, hashing its 2 GiB two seconds.
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
  const temporary = `${path}.${process.pid}`;
  await rm(temporary, { force: true });
  await formatOverlay(temporary, OVERLAY_BYTES);
  await rename(temporary, path);
  await writeFile(stampPath, JSON.stringify(await identify(path)));
  return path;
}

/**
 * An empty disk for one sandbox at `targetPath`, which must not exist: a reflink of the template where the
 * filesystem can, else a sparse copy; another size than the template's is formatted afresh (10 ms).
 * @throws ImageError `source_invalid` for a size that no filesystem fits in; errors of the OS as they are
 */
export async function createOverlay(
  templatePath: string,
  targetPath: string,
  sizeBytes: number,
): Promise<void> {
  const template = await stat(templatePath);
  if (template.size !== sizeBytes) return formatOverlay(targetPath, sizeBytes);
  await cloneSparse(templatePath, targetPath);
}

/** @throws ImageError; on any failure nothing is left at `targetPath` */
export async function formatOverlay(targetPath: string, sizeBytes: number): Promise<void> {
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < OVERLAY_BYTES_MIN) {
    throw new ImageError('source_invalid', `make a disk of ${sizeBytes} bytes`, {
      remedy: `Ask for at least ${OVERLAY_BYTES_MIN / MIB} MiB.`,
    });
  }
  await withNewFile(targetPath, async (file) => {
    await file.truncate(sizeBytes);
    // No journal: the disk ends with its VM, and a paused VM keeps its memory. No checksums: they cost
    // in software emulation. Inode tables zeroed now (as holes), or the guest would write them all later.
    const features = '^has_journal,^resize_inode,^metadata_csum,^64bit';
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
    ignore(error, 'no stamp of an overlay template: it is made');
    return undefined;
  }
}
