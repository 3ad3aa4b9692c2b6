/** The objects in `bpf/prebuilt/`, which `node tools/prebuilt.ts` makes (I/O). */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describeError } from '../../base/errors.ts';
import { PREBUILT_DIR, prebuiltSchema, readPrebuilt } from '../../base/prebuilt/manifest.ts';

export const objectName = (program: string): string => `${program}.bpf.o`;

export type ShippedObject =
  | { readonly path: string }
  /** One clause: why an object that should match is not used. */
  | { readonly path?: undefined; readonly damage: string };

/**
 * @param inputs digest of sources and options
 * @returns undefined if no object of these inputs is shipped
 */
export async function shippedObject(
  program: string,
  sourceDir: string,
  inputs: string,
): Promise<ShippedObject | undefined> {
  const dir = join(sourceDir, PREBUILT_DIR);
  const name = objectName(program);
  try {
    const manifest = await readPrebuilt(dir, prebuiltSchema);
    const file = manifest?.inputs === inputs ? manifest.files[name] : undefined;
    if (file === undefined) return undefined;
    const path = join(dir, name);
    const actual = createHash('sha256')
      .update(await readFile(path))
      .digest('hex');
    if (actual === file.sha256) return { path };
    return { damage: `the SHA-256 of bpf/${PREBUILT_DIR}/${name} is not that of its manifest` };
  } catch (error) {
    return { damage: `bpf/${PREBUILT_DIR}/${name} is unreadable: ${describeError(error)}` };
  }
}
