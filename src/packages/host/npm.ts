/** The registry of the host's npm: NPM_CONFIG_REGISTRY, .npmrc, then the public one. */
import { join } from 'node:path';
import type { Index } from '../upstream/index-set.ts';
import type { HostFiles } from './host-files.ts';
import { indexOf } from './index-url.ts';
import { parseIni } from './ini.ts';

const DEFAULT = 'https://registry.npmjs.org/';

/** @throws PackageError `index_invalid` */
export async function npmIndex({ env, home, read }: HostFiles): Promise<Index> {
  const variable = (name: string): string | undefined =>
    env[`NPM_CONFIG_${name.toUpperCase()}`] || env[`npm_config_${name}`];
  const paths = [
    variable('userconfig') ?? join(home, '.npmrc'),
    variable('globalconfig') ?? '/etc/npmrc',
    '/usr/local/etc/npmrc',
  ];
  const texts = await Promise.all(paths.map((path) => read(path)));
  const files = texts.flatMap((text) => (text === undefined ? [] : [parseIni(text).get('')]));
  const setting = (key: string): string | undefined => {
    const value = files.map((file) => file?.get(key)).find((one) => one !== undefined);
    return value === undefined ? undefined : expanded(value, env);
  };
  const registry = variable('registry') ?? setting('registry') ?? DEFAULT;
  const index = indexOf(registry, "the registry of the host's npm");
  const authorization = credentials(index, setting) ?? index.authorization;
  const cafile = variable('cafile') ?? setting('cafile');
  const ca = cafile === undefined ? undefined : await read(cafile);
  return {
    ...index,
    ...(authorization === undefined ? {} : { authorization }),
    ...(ca === undefined ? {} : { ca }),
  };
}

/** Of this registry: `//host/path/:_authToken`, `_auth`, or `username` with `_password`. */
function credentials(
  { baseUrl }: Index,
  setting: (key: string) => string | undefined,
): string | undefined {
  const place = baseUrl.replace(/^https?:/, '');
  const own = (name: string): string | undefined =>
    setting(`${place}:${name}`) ?? setting(`${place.replace(/\/$/, '')}:${name}`);
  const token = own('_authToken');
  if (token !== undefined) return `Bearer ${token}`;
  const basic = own('_auth');
  if (basic !== undefined) return `Basic ${basic}`;
  const [name, password] = [own('username'), own('_password')];
  if (name === undefined || password === undefined) return undefined;
  const pair = `${name}:${Buffer.from(password, 'base64').toString()}`;
  return `Basic ${Buffer.from(pair).toString('base64')}`;
}

/** npm puts variables into values: `${NAME}`. */
function expanded(value: string, env: HostFiles['env']): string {
  const text = value.replace(/^"(.*)"$/, '$1');
  return text.replace(/\$\{([A-Za-z0-9_]+)\}/g, (all, name: string) => env[name] ?? all);
}
