/** Firecracker as sandboxes get it: in its jail where the host can, with the filters that are configured. */
import { randomBytes } from 'node:crypto';
import { readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '../base/clock.ts';
import { filterFormatOf, firecrackerFilter } from '../jail/firecracker-filter.ts';
import { requirePrivateDir } from '../jail/private-dir.ts';
import { parseProfile, withMode } from '../jail/profile.ts';
import { createFirecrackerDriver, type FirecrackerDriver } from '../vmm/firecracker/driver.ts';
import { readFirecrackerVersion } from '../vmm/firecracker/installation.ts';
import {
  type FirecrackerConfig,
  type FirecrackerJail,
  type FirecrackerOptions,
  openFirecrackerJail,
} from './firecracker-jail.ts';
import type { Home } from './home.ts';
import {
  type Confinement,
  judgeGaps,
  POLICY_DIR,
  SWITCHED_OFF,
  unconfined,
  whyUnjailed,
} from './jail.ts';

/** @throws RuntimeError `jail_unavailable` when there is to be a jail and there is none; VmmError `vmm_missing` */
export async function makeFirecracker(
  options: FirecrackerOptions,
): Promise<{ driver: FirecrackerDriver; confinement: Confinement }> {
  const { config, home, log, allowOlder = false } = options;
  const version = await readFirecrackerVersion(config.firecracker, allowOlder);
  const mode = config.jail === 'log' ? 'log' : 'enforce';
  const seccompFilterPath = takesOurs(config)
    ? await writeFilter(home, version.text, mode)
    : undefined;
  const { jail, confinement } = await confineFirecracker(options);
  try {
    const driver = await createFirecrackerDriver({
      ...{ binary: config.firecracker, clock: systemClock, log, allowOlder },
      ...(seccompFilterPath === undefined ? {} : { seccompFilterPath }),
      ...(jail === null ? {} : { jail: jail.specOf }),
      ...{ tracksDirtyPages: true, requiresFilter: true },
    });
    return { driver, confinement };
  } catch (error) {
    await confinement.close();
    throw error;
  }
}

/** @throws RuntimeError `jail_unavailable` */
export async function confineFirecracker(
  options: FirecrackerOptions,
): Promise<{ jail: FirecrackerJail | null; confinement: Confinement }> {
  const { jail: mode } = options.config;
  if (mode === 'off') return { jail: null, confinement: unconfined(SWITCHED_OFF) };
  try {
    const jail = await openFirecrackerJail(options);
    if (options.acceptsGaps !== true) judgeGaps(jail.gaps, mode, options.log);
    const filter = takesOurs(options.config)
      ? 'our seccomp filters'
      : 'seccomp filters of Firecracker';
    const logs = mode === 'log' ? ', but forbidden system calls are only logged' : '';
    const description = `jailed: ${[...jail.holds, filter].join(', ')}${logs}`;
    const state = mode === 'log' ? 'log' : 'enforced';
    const { gaps } = jail;
    return { jail, confinement: { state, description, gaps, close: () => jail.close() } };
  } catch (error) {
    const reason = whyUnjailed(error, mode, options.log);
    return { jail: null, confinement: unconfined(`${reason}; its system call filters hold`) };
  }
}

/** Its own filters can't be told to log. */
function takesOurs({ firecrackerFilter, jail }: FirecrackerConfig): boolean {
  return firecrackerFilter === 'ours' || jail === 'log';
}

/**
 * Our profile in the encoding of a version.
 * @returns its path, for this user alone
 * @throws JailError `profile_invalid`, `jail_dir_unsafe`
 */
export async function writeFilter(
  { cacheDir }: Pick<Home, 'cacheDir'>,
  version: string,
  mode: 'enforce' | 'log',
): Promise<string> {
  const text = await readFile(join(POLICY_DIR, 'firecracker-x86_64.json'), 'utf8');
  const profile = new Map(
    [...parseProfile(text)].map(([thread, filter]) => [thread, withMode(filter, mode)]),
  );
  const format = filterFormatOf(version);
  const dir = join(cacheDir, 'jail');
  requirePrivateDir(dir);
  const path = join(dir, `firecracker-${format}-${mode}`);
  const beside = `${path}.${randomBytes(8).toString('hex')}`;
  // Written each time: it takes 10 ms, and what lies there is what was just compiled.
  await writeFile(beside, firecrackerFilter(profile, format, 'x86_64'), {
    mode: 0o600,
    flag: 'wx',
  });
  await rename(beside, path);
  return path;
}
