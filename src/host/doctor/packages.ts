/** Host packages: those that set-up needs, those that some features need, and those that only proofs need. */

import {
  COMPILER_PACKAGES,
  type HostPackage,
  installCommand,
  missingHostPackages,
} from '../../artifacts/image/host-packages.ts';
import { neededPackages } from '../../artifacts/image/prepared.ts';
import type { Config } from '../../base/config.ts';
import { resolveHome } from '../../base/home.ts';
import { PACKAGE_DIR } from '../../base/package-dir.ts';
import type { Finding } from './check.ts';

export async function checkPackages({ config }: { readonly config: Pick<Config, 'home'> }): Promise<Finding> {
  const { cacheDir } = resolveHome(config.home);
  const needed = await neededPackages({ cacheDir, sourceDir: PACKAGE_DIR });
  const missing = await missingHostPackages(needed);
  return judgePackages(missing, await missingHostPackages(COMPILER_PACKAGES));
}

/** @param compilers missing packages with which `prove` and `bench` compile their own programs */
export function judgePackages(missing: readonly HostPackage[], compilers: readonly HostPackage[]): Finding {
  const names = missing.map((one) => one.name).join(' ');
  if (missing.length > 0) {
    return {
      verdict: missing.every((one) => one.isOptional === true) ? 'limited' : 'missing',
      detail: names,
      remedy: `run \`./neurovisor setup\` as root, or: ${installCommand(missing)}`,
    };
  }
  if (compilers.length === 0) return { verdict: 'ok', detail: 'all installed', remedy: null };
  const detail = `all installed; \`prove\` and some figures of \`bench\` compile programs: ${installCommand(compilers)}`;
  return { verdict: 'ok', detail, remedy: null };
}
