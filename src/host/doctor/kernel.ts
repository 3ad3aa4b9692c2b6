/** Which guest kernel a start uses, what it was made from, and how to build it here. */

import { describeKernel, type KernelManifest } from '../../artifacts/image/kernel/kernel.ts';
import type { Config } from '../../base/config.ts';
import { resolveHome } from '../../base/home.ts';
import { PACKAGE_DIR } from '../../base/package-dir.ts';
import type { Finding } from './check.ts';

export async function checkKernel({ config }: { readonly config: Pick<Config, 'home'> }): Promise<Finding> {
  const { cacheDir } = resolveHome(config.home);
  const kernel = await describeKernel({ cacheDir, sourceDir: PACKAGE_DIR });
  if (kernel !== undefined) return judgeKernel(kernel);
  const detail = 'not built yet: no prebuilt kernel is used here';
  return { verdict: 'limited', detail, remedy: 'run `./neurovisor setup`' };
}

export function judgeKernel({ origin, source, kernelVersion, tools }: KernelManifest): Finding {
  const made = `from ${source.package} ${source.version} with ${tools['gcc'] ?? 'unknown'}`;
  const other =
    origin === 'prebuilt'
      ? '`neurovisor setup --build-kernel` builds it here'
      : '`neurovisor setup --no-build-kernel` goes back to the prebuilt one';
  const detail = `Linux ${kernelVersion}, ${origin} ${made}; ${other}`;
  return { verdict: 'ok', detail, remedy: null };
}
