/**
 * Reads the sparse index of the host's cargo, with its token: that of a source that replaces crates.io, or crates.io
 * itself.
 */
import { join } from 'node:path';
import { parse } from 'smol-toml';
import { PackageError } from '../errors.ts';
import type { Index } from '../upstream/index-set.ts';
import type { HostFiles } from './host-files.ts';
import { indexOf } from './index-url.ts';
import { withProxies } from './proxies.ts';

const PUBLIC: Index = { baseUrl: 'https://index.crates.io/', fileHosts: ['static.crates.io', 'crates.io'] };
/** Cargo refuses circles, too. */
const STEPS_MAX = 5;

type Table = Readonly<Record<string, unknown>>;

/** Undefined if the host's cargo uses a registry without a sparse index. @throws PackageError `index_invalid` */
export async function cargoIndex(files: HostFiles): Promise<Index | undefined> {
  const { env } = files;
  const config = await tableOf(files, 'config');
  const name = replacement(config);
  const proxy = env['CARGO_HTTP_PROXY'] || textIn(config, 'http', 'proxy');
  const add = (index: Index): Index => withProxies(index, files, 'cargo', { http: proxy, https: proxy });
  if (name === 'crates-io') return add(PUBLIC);
  const address = textIn(config, 'source', name, 'registry') ?? registryIndex(files, config, name);
  if (address?.startsWith('sparse+') !== true) return undefined;
  const index = indexOf(address.slice('sparse+'.length), "the source that replaces crates-io of the host's cargo");
  const token = await tokenOf(files, config, name, address);
  // Cargo's book, "Registry Authentication": the token is the whole value.
  return add(token === undefined ? index : { ...index, authorization: token });
}

function replacement(config: Table): string {
  let name = 'crates-io';
  for (let steps = 0; steps < STEPS_MAX; steps += 1) {
    const next = textIn(config, 'source', name, 'replace-with');
    if (next === undefined) break;
    name = next;
  }
  return name;
}

function registryIndex({ env }: HostFiles, config: Table, name: string): string | undefined {
  return env[`CARGO_REGISTRIES_${variableName(name)}_INDEX`] ?? textIn(config, 'registries', name, 'index');
}

/** Token of the registry with the source's name, unless that has another index, or of one with the same index. */
async function tokenOf(files: HostFiles, config: Table, name: string, address: string): Promise<string | undefined> {
  const indexOfRegistry = (one: string) => registryIndex(files, config, one);
  const own = [undefined, address].includes(indexOfRegistry(name)) ? [name] : [];
  const others = Object.keys(tableIn(config, 'registries'));
  const same = [...own, ...others.filter((one) => indexOfRegistry(one) === address)];
  const credentials = await tableOf(files, 'credentials');
  for (const one of same) {
    const token =
      files.env[`CARGO_REGISTRIES_${variableName(one)}_TOKEN`] ||
      textIn(credentials, 'registries', one, 'token') ||
      textIn(config, 'registries', one, 'token');
    if (token) return token;
  }
  return undefined;
}

const variableName = (name: string): string => name.toUpperCase().replaceAll('-', '_');

/** Empty without such a file. @throws PackageError `index_invalid` */
async function tableOf({ env, home, read }: HostFiles, file: string): Promise<Table> {
  const dir = env['CARGO_HOME'] || join(home, '.cargo');
  const text = (await read(join(dir, `${file}.toml`))) ?? (await read(join(dir, file)));
  if (text === undefined) return {};
  try {
    return parse(text);
  } catch {
    // The library's error quotes the line, which may have a token.
    throw new PackageError('index_invalid', `${file}.toml of the host's cargo is no valid TOML`, {
      remedy: 'correct that file',
    });
  }
}

function tableIn(table: Table, key: string): Table {
  const value = Object.hasOwn(table, key) ? table[key] : undefined;
  return typeof value === 'object' && value !== null ? (value as Table) : {};
}

function textIn(table: Table, ...path: readonly string[]): string | undefined {
  const [last = '', ...others] = path.toReversed();
  const at = others.toReversed().reduce(tableIn, table);
  const value = Object.hasOwn(at, last) ? at[last] : undefined;
  return typeof value === 'string' ? value : undefined;
}
