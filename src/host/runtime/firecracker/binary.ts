/** Finds Firecracker: the configured one, the one in PATH, or the one that set-up installed. */

import { ImageError } from '../../../artifacts/image/errors.ts';
import {
  type FirecrackerDetails,
  type FirecrackerSource,
  findInstalledFirecracker,
  type InstalledPaths,
  prepareFirecracker,
} from '../../../artifacts/image/firecracker.ts';
import { isUrl } from '../../../artifacts/image/pinned-source.ts';
import type { Config } from '../../../base/config.ts';
import { DEFAULT_FIRECRACKER } from '../../../base/config.ts';
import type { Home } from '../../../base/home.ts';
import { ignore } from '../../../base/ignore.ts';
import {
  findBinary,
  readFirecrackerVersion,
  readJailerVersion,
} from '../../../machine/vmm/firecracker/installation.ts';
import type { SetupContext } from '../setup.ts';

export { type FirecrackerSource, type InstalledPaths, isUrl };

/** Adds the path of the installed Firecracker, if neither the configuration nor PATH names one. */
export async function withFirecracker<T extends Pick<Config, 'firecracker'>>(
  config: T,
  { cacheDir }: Pick<Home, 'cacheDir'>,
): Promise<T> {
  if (config.firecracker !== DEFAULT_FIRECRACKER) return config;
  try {
    await findBinary(config.firecracker);
    return config;
  } catch (error) {
    ignore(error, 'not in PATH');
    const installed = await findInstalledFirecracker(cacheDir);
    return installed === null ? config : { ...config, firecracker: installed.firecracker };
  }
}

/** One line if starts use another Firecracker than the installed one, else `null`. */
export async function explainUnused(
  config: Pick<Config, 'firecracker'>,
  home: Pick<Home, 'cacheDir'>,
  installed: InstalledPaths,
): Promise<string | null> {
  const { firecracker } = await withFirecracker(config, home);
  if (firecracker === installed.firecracker) return null;
  const why =
    firecracker === DEFAULT_FIRECRACKER
      ? `another one is in PATH; remove it, or set NEUROVISOR_FIRECRACKER=${installed.firecracker}`
      : `NEUROVISOR_FIRECRACKER is ${firecracker}`;
  return `the installed Firecracker is not used: ${why}`;
}

/** Hint for a host whose KVM works. */
export const INSTALL_FIRECRACKER =
  'install Firecracker with `neurovisor setup --firecracker FILE|URL --sha256 DIGEST` (docs/firecracker.md)';

export async function hasFirecracker(config: Config, home: Pick<Home, 'cacheDir'>): Promise<boolean> {
  const { firecracker } = await withFirecracker(config, home);
  return await findBinary(firecracker).then(
    () => true,
    () => false,
  );
}

/** @throws ImageError; VmmError `vmm_missing` if a program does not run, or its version is not supported */
export async function installFirecracker(
  context: SetupContext,
  source: FirecrackerSource,
): Promise<InstalledPaths & FirecrackerDetails> {
  return await prepareFirecracker(context, source, async ({ firecracker, jailer }) => {
    const { text } = await readFirecrackerVersion(firecracker);
    const its = (await readJailerVersion(jailer)).text;
    if (text === its) return text;
    throw new ImageError('source_invalid', `install ${source.from}`, {
      cause: `its Firecracker is ${text}, its jailer ${its}`,
      remedy: 'Use both of one release.',
    });
  });
}
