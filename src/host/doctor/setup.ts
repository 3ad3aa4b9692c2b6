/**
 * Whether set-up has built what this checkout needs: the check of each start, stricter than whether anything is there.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { absentArtifacts, guestPackages } from '../../artifacts/image/prepared.ts';
import type { GuestPackages } from '../../artifacts/image/rootfs/debian-lock.ts';
import type { Config } from '../../base/config.ts';
import { describeError } from '../../base/errors.ts';
import { resolveHome } from '../../base/home.ts';
import type { Log } from '../../base/log.ts';
import { PACKAGE_DIR } from '../../base/package-dir.ts';
import type { Finding } from './check.ts';

export async function checkSetup({
  config,
  log,
}: {
  readonly config: Pick<Config, 'home'>;
  readonly log: Log;
}): Promise<Finding> {
  const { cacheDir } = resolveHome(config.home);
  const { signal } = new AbortController();
  const context = { cacheDir, sourceDir: PACKAGE_DIR, progress: () => undefined, signal, log };
  const absent = await absentArtifacts(context, { withModel: true });
  if (absent.length === 0) {
    return judgeImage(await guestPackages(context));
  }
  const isNew = !existsSync(join(cacheDir, 'kernel')) && !existsSync(join(cacheDir, 'rootfs'));
  const names = absent.map(({ name, cause }) => (cause === null ? name : `${name} (${describeError(cause)})`));
  return {
    verdict: 'limited',
    detail: isNew ? 'not set up yet' : `not built for this version yet: ${names.join(', ')}`,
    remedy: 'run `./neurovisor setup`, or let the first `run` do it',
  };
}

/** @param packages undefined if the image was removed just now */
export function judgeImage(packages: GuestPackages | undefined): Finding {
  const { description = 'its manifest is unreadable', remedy = null } = packages ?? {};
  const detail = `kernel, golden image and model are built; ${description}`;
  return { verdict: remedy === null ? 'ok' : 'limited', detail, remedy };
}
