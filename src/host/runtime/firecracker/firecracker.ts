/** Firecracker for sandboxes: in its jail if the host supports that, with the configured filters. */
import { systemClock } from '../../../base/clock.ts';
import { isRootWith, NEEDED_CAPABILITIES } from '../../../machine/jail/open.ts';
import { createFirecrackerDriver, type FirecrackerDriver } from '../../../machine/vmm/firecracker/driver.ts';
import { readFirecrackerVersion } from '../../../machine/vmm/firecracker/installation.ts';
import { type Confinement, confinement, judgeGaps, modeOf, SWITCHED_OFF, unconfined, unjailable } from '../jail.ts';
import { sharingAsConfigured } from '../ram/sharing.ts';
import { writeFilter } from './filters.ts';
import { type FirecrackerConfig, type FirecrackerJail, type FirecrackerOptions, openFirecrackerJail } from './jail.ts';
import { openFirecrackerUserJail } from './user-jail.ts';

/** A Firecracker with its confinement; `jail` is `null` if it has none. */
export interface ConfinedFirecracker {
  readonly jail: FirecrackerJail | null;
  readonly confinement: Confinement;
}

/**
 * @param confined its jail, if it is open already; its opener closes it
 * @throws RuntimeError `jail_unavailable` if a jail is required and not available; VmmError `vmm_missing`
 */
export async function makeFirecracker(
  options: FirecrackerOptions,
  confined?: ConfinedFirecracker,
): Promise<{ driver: FirecrackerDriver; confinement: Confinement }> {
  const { config, home, log } = options;
  // Rejects a wrong version before the jail is made.
  await readFirecrackerVersion(config.firecracker);
  const sharing = sharingAsConfigured(config);
  const seccompFilterPath = takesOurs(config) ? await writeFilter(home, modeOf(config)) : undefined;
  const { jail, confinement } = confined ?? (await confineFirecracker(options));
  try {
    const driver = await createFirecrackerDriver({
      binary: config.firecracker,
      clock: systemClock,
      log,
      ...(seccompFilterPath === undefined ? {} : { seccompFilterPath }),
      ...(jail === null ? {} : { jail: jail.specOf }),
      tracksDirtyPages: true,
      mapsMemory: sharing.isShared,
      requiresFilter: true,
    });
    return { driver: { ...driver, memorySharing: sharing.text }, confinement };
  } catch (error) {
    if (confined === undefined) await confinement.close();
    throw error;
  }
}

/** @throws RuntimeError `jail_unavailable` */
export async function confineFirecracker(options: FirecrackerOptions): Promise<ConfinedFirecracker> {
  const { jail: mode } = options.config;
  if (mode === 'off') return { jail: null, confinement: unconfined(SWITCHED_OFF) };
  try {
    const jail = isRootWith(NEEDED_CAPABILITIES)
      ? await openFirecrackerJail(options)
      : await openFirecrackerUserJail(options);
    if (options.acceptsGaps !== true) judgeGaps(jail.gaps, mode, options.log);
    const filter = takesOurs(options.config) ? 'our seccomp filters' : 'seccomp filters of Firecracker';
    return { jail, confinement: confinement(jail, mode, [...jail.holds, filter].join(', ')) };
  } catch (error) {
    throw unjailable(error);
  }
}

/** Firecracker's own filters can't log. */
function takesOurs({ firecrackerFilter, jail }: FirecrackerConfig): boolean {
  return firecrackerFilter === 'ours' || jail === 'log';
}
