/**
 * Regenerates `image/debian.lock`: installs the newest packages of the host's mirrors into a separate guest base,
 * and writes their versions and digests. Run by hand to update versions; takes a minute:
 *
 *     node tools/lock-debian.ts
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { prepareArtifact } from '../src/artifacts/image/prepare.ts';
import { formatDebianLock } from '../src/artifacts/image/rootfs/debian-lock.ts';
import { guestBaseRecipe, readLocks } from '../src/artifacts/image/rootfs/guest-base.ts';
import { silentLog } from '../src/base/log.ts';
import { silentProgress } from '../src/base/progress.ts';

const sourceDir = join(import.meta.dirname, '..');
// On a disk: /tmp may be in memory, and small.
const cacheDir = await mkdtemp('/var/tmp/nv-lock-');
try {
  const { signal } = new AbortController();
  const context = { cacheDir, sourceDir, progress: silentProgress, signal, log: silentLog };
  const locks = { ...(await readLocks(sourceDir)), debian: {} };
  const { details } = await prepareArtifact(context, guestBaseRecipe(locks));
  const header = '# Made by tools/lock-debian.ts: the packages of Debian 12 in the golden image, for x86-64.\n';
  const path = join(sourceDir, 'image', 'debian.lock');
  await writeFile(path, header + formatDebianLock(details.packages));
  console.log(`image/debian.lock: ${Object.keys(details.packages).length} packages`);
} finally {
  await rm(cacheDir, { recursive: true, force: true });
}
