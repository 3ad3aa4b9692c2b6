/**
 * Builds the kernel that `neurovisor bench boot` compares the guest's with: Firecracker's CI configuration, from this
 * host's kernel source, plus EROFS and MP tables, which our image and machine need. Takes ten minutes on 2 cores:
 *
 *     base=https://raw.githubusercontent.com/firecracker-microvm/firecracker/main/resources/guest_configs
 *     curl -O "$base/microvm-kernel-ci-x86_64-6.1.config" -O "$base/ci.config" -O "$base/pcie.config"
 *     node tools/reference-kernel.ts microvm-kernel-ci-x86_64-6.1.config ci.config pcie.config
 *
 * An option that the source does not know is left out.
 */
import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { REFERENCE_DIR, REFERENCE_FILE } from '../bench/start/reference-kernel.ts';
import { parseKernelConfig } from '../src/artifacts/image/kernel/config.ts';
import { prepareKernel } from '../src/artifacts/image/kernel/kernel.ts';
import { readConfig } from '../src/base/config.ts';
import { resolveHome } from '../src/base/home.ts';
import { silentLog } from '../src/base/log.ts';
import { silentProgress } from '../src/base/progress.ts';

/** Options that have `MITIGATION_` instead of `CPU_` today, or before their name. */
const MITIGATIONS = [
  'PAGE_TABLE_ISOLATION',
  'RETPOLINE',
  'RETHUNK',
  'CPU_UNRET_ENTRY',
  'CPU_IBPB_ENTRY',
  'CPU_IBRS_ENTRY',
  'CPU_SRSO',
];

const texts = await Promise.all(process.argv.slice(2).map((path) => readFile(path, 'utf8')));
if (texts.length === 0) throw new Error('usage: node tools/reference-kernel.ts CONFIG…');
const options = new Map(texts.flatMap((text) => [...parseKernelConfig(text)]));
// Our image, and the interrupts of our machine, which the guest's command line takes from the MP table.
for (const name of ['EROFS_FS', 'X86_MPPARSE']) options.set(name, 'y');
// Since Linux 6.9.
for (const name of MITIGATIONS) {
  const value = options.get(name);
  if (value !== undefined) options.set(`MITIGATION_${name.replace(/^CPU_/, '')}`, value);
}
// Facts of the machine on which the configuration was written.
for (const name of options.keys()) if (/^(CC|AS|LD|LLD|GCC|CLANG|PAHOLE)_/.test(name)) options.delete(name);
const lines = [...options].flatMap(([name, value]) => [`# optional: ${name}`, `CONFIG_${name}=${value}`]);

const { cacheDir } = resolveHome(readConfig(process.env).home);
const scratch = await mkdtemp('/var/tmp/nv-kernel-');
try {
  await mkdir(join(scratch, 'kernel'));
  await writeFile(join(scratch, 'kernel/guest.config'), `${lines.join('\n')}\n`);
  await writeFile(join(scratch, 'kernel/deny.txt'), '');
  const { signal } = new AbortController();
  const { path, manifest } = await prepareKernel({
    cacheDir: join(scratch, 'cache'),
    sourceDir: scratch,
    progress: silentProgress,
    signal,
    log: silentLog,
  });
  const dir = join(cacheDir, REFERENCE_DIR);
  await mkdir(dir, { recursive: true });
  await copyFile(path, join(dir, REFERENCE_FILE));
  console.log(`${join(dir, REFERENCE_FILE)}: Linux ${manifest.kernelVersion}`);
} finally {
  await rm(scratch, { recursive: true, force: true });
}
