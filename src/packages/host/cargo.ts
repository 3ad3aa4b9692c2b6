/** The sparse index of the host's cargo: a source that replaces crates.io, or that itself. */
import { join } from 'node:path';
import type { Index } from '../upstream/index-set.ts';
import type { HostFiles } from './host-files.ts';
import { indexOf } from './index-url.ts';
import { type Ini, parseIni } from './ini.ts';

const DEFAULT: Index = {
  baseUrl: 'https://index.crates.io/',
  fileHosts: ['static.crates.io', 'crates.io'],
};

/** Undefined: the host's cargo uses a registry without a sparse index. @throws PackageError `index_invalid` */
export async function cargoIndex({ env, home, read }: HostFiles): Promise<Index | undefined> {
  const dir = env['CARGO_HOME'] || join(home, '.cargo');
  const text = (await read(join(dir, 'config.toml'))) ?? (await read(join(dir, 'config')));
  if (text === undefined) return DEFAULT;
  const ini = parseIni(text);
  let name = 'crates-io';
  // A source may be replaced by one that is replaced itself; cargo refuses circles, too.
  for (let steps = 0; steps < 5; steps += 1) {
    const next = textOf(ini, `source.${name}`, 'replace-with');
    if (next === undefined) break;
    name = next;
  }
  if (name === 'crates-io') return DEFAULT;
  const registry =
    textOf(ini, `source.${name}`, 'registry') ?? textOf(ini, `registries.${name}`, 'index');
  if (registry?.startsWith('sparse+') !== true) return undefined;
  return indexOf(registry.slice('sparse+'.length), `source ${name} of the host's cargo`);
}

function textOf(ini: Ini, section: string, key: string): string | undefined {
  const value = ini.get(section)?.get(key);
  return /^(["'])(.*)\1/.exec(value ?? '')?.[2];
}
