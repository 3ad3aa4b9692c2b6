/** Finds the kernel source of the distribution's `linux-source-*` package in /usr/src. */
import { readdir, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { ignore } from '../../../base/ignore.ts';
import { runTool } from '../tool.ts';

export interface KernelSource {
  readonly path: string;
  /** Name, size and time of the tarball, which change with each version of the package. */
  readonly identity: string;
  /** The Debian package that installed it. Default: the one that dpkg names. */
  readonly owner?: { readonly name: string; readonly version: string };
}

export const KERNEL_SOURCE_DIR = '/usr/src';
/** The tested series of the configuration; others are used if it is missing. */
const PREFERRED_SERIES = '6.12';
const TARBALL = /^linux-source-(\d+(?:\.\d+)*)\.tar\.(?:xz|gz|bz2|zst)$/;

export async function findKernelSource(dir: string = KERNEL_SOURCE_DIR): Promise<KernelSource | undefined> {
  const candidates: string[] = [];
  for (const name of await list(dir)) {
    if (TARBALL.test(name)) candidates.push(join(dir, name));
    // Ubuntu puts the tarball into its own directory.
    if (!/^linux-source-[\d.]+$/.test(name)) continue;
    for (const inner of await list(join(dir, name))) {
      if (TARBALL.test(inner)) candidates.push(join(dir, name, inner));
    }
  }
  const path = chooseSource(candidates);
  if (path === undefined) return undefined;
  const { size, mtimeMs } = await stat(path);
  return { path, identity: `${basename(path)} ${size} ${Math.trunc(mtimeMs / 1000)}` };
}

export function chooseSource(paths: readonly string[]): string | undefined {
  const versionOf = (path: string): number[] => (TARBALL.exec(basename(path))?.[1] ?? '').split('.').map(Number);
  const preferred = paths.find((path) => isSeries(versionOf(path).join('.')));
  if (preferred !== undefined) return preferred;
  return [...paths].sort((a, b) => compareVersions(versionOf(b), versionOf(a)))[0];
}

const isSeries = (version: string): boolean =>
  version === PREFERRED_SERIES || version.startsWith(`${PREFERRED_SERIES}.`);

function compareVersions(a: readonly number[], b: readonly number[]): number {
  for (let i = 0; i < Math.max(a.length, b.length); i++) {
    const difference = (a[i] ?? 0) - (b[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

/** Package and version of the tarball, for the manifest; `unknown` without dpkg. */
export async function describeSource(
  source: KernelSource,
  signal: AbortSignal,
): Promise<{ name: string; version: string }> {
  if (source.owner !== undefined) return source.owner;
  try {
    const owner = await runTool('dpkg-query', ['-S', source.path], { signal });
    const name = owner.split(':')[0] ?? 'unknown';
    // biome-ignore lint/suspicious/noTemplateCurlyInString: dpkg-query's own notation
    const version = await runTool('dpkg-query', ['-W', '-f', '${Version}', name], { signal });
    return { name, version };
  } catch (error) {
    signal.throwIfAborted();
    ignore(error, 'the kernel source belongs to no package');
    return { name: 'unknown', version: 'unknown' };
  }
}

async function list(dir: string): Promise<string[]> {
  try {
    return await readdir(dir);
  } catch (error) {
    ignore(error, 'no directory of kernel sources');
    return [];
  }
}
