/** Reads the registry of the host's npm (NPM_CONFIG_REGISTRY, .npmrc, else the public one) and those of scopes. */
import { join } from 'node:path';
import { PackageError } from '../errors.ts';
import type { Configured, Index, IndexSet } from '../upstream/index-set.ts';
import type { HostFiles } from './host-files.ts';
import { indexOf } from './index-url.ts';
import { parseIni } from './ini.ts';
import { basic } from './netrc.ts';
import { withProxies } from './proxies.ts';

const DEFAULT = 'https://registry.npmjs.org/';
const SCOPE = /^(@[A-Za-z0-9~_-][A-Za-z0-9._~-]*):registry$/;
const VARIABLE = /^npm_config_(.+)$/i;

type Setting = (key: string) => string | undefined;

/** @throws PackageError `index_invalid` */
export async function npmIndexes(files: HostFiles): Promise<Pick<IndexSet, 'npm' | 'npmScopes'>> {
  const settings = await configuration(files);
  const setting: Setting = (key) => settings.get(key);
  const cafile = setting('cafile');
  const ca = cafile === undefined ? undefined : await files.read(cafile);
  const [http, https] = [setting('proxy'), setting('https-proxy')].map(unlessNone);
  const proxies = { http, https: https ?? http, except: unlessNone(setting('noproxy')) };
  const open = (registry: string, where: string): Index => {
    const index = indexOf(registry, where);
    const authorization = credentials(index, setting) ?? index.authorization;
    return withProxies(
      { ...index, ...(authorization === undefined ? {} : { authorization }), ...(ca === undefined ? {} : { ca }) },
      files,
      'npm',
      proxies,
    );
  };
  const scopes = [...settings].flatMap(([key, registry]) => {
    const scope = SCOPE.exec(key)?.[1];
    return scope === undefined ? [] : [[scope, registry] as const];
  });
  return {
    npm: open(setting('registry') ?? DEFAULT, "the registry of the host's npm"),
    npmScopes: Object.fromEntries(
      // Includes invalid ones: the default registry may have other packages with these names.
      scopes.map(([scope, registry]) => [scope, orError(() => open(registry, ofScope))]),
    ),
  };
}

/** Omits the name of the scope: its guest knows it, and others need not. */
const ofScope = "the registry of this scope of the host's npm";

function orError(open: () => Index): Configured {
  try {
    return open();
  } catch (error) {
    if (error instanceof PackageError) return error;
    throw error;
  }
}

/** npm writes these values for an unset setting. */
const unlessNone = (value: string | undefined): string | undefined =>
  value === 'null' || value === 'false' || value === '' ? undefined : value;

/** npm's variables, then its files, the user's before the system's, with `${NAME}` in values replaced. */
async function configuration({ env, home, read }: HostFiles): Promise<ReadonlyMap<string, string>> {
  const lines = variables(env);
  const paths = [
    lines.get('userconfig') ?? join(home, '.npmrc'),
    lines.get('globalconfig') ?? '/etc/npmrc',
    '/usr/local/etc/npmrc',
  ];
  for (const text of await Promise.all(paths.map((one) => read(one)))) {
    for (const [key, value] of (text === undefined ? undefined : parseIni(text).get('')) ?? []) {
      if (!lines.has(key)) lines.set(key, expanded(value, env));
    }
  }
  return lines;
}

/**
 * `NPM_CONFIG_HTTPS_PROXY` and `npm_config_https_proxy` become `https-proxy`; names of places (`//host/:_auth`) stay
 * unchanged.
 */
function variables(env: HostFiles['env']): Map<string, string> {
  const found = new Map<string, string>();
  for (const [variable, value = ''] of Object.entries(env).toSorted()) {
    const name = VARIABLE.exec(variable)?.[1];
    if (name === undefined || value === '') continue;
    const key = name.startsWith('//') ? name : name.replace(/(?!^)_/g, '-').toLowerCase();
    if (!found.has(key)) found.set(key, value);
  }
  return found;
}

/**
 * Credentials of this registry, or of a path above it: `//host/path/:_authToken`, `_auth`, or `username` with
 * `_password`.
 */
function credentials({ baseUrl }: Index, line: Setting): string | undefined {
  for (const place of placesOf(baseUrl)) {
    const own = (name: string): string | undefined => line(`${place}:${name}`);
    const token = own('_authToken');
    if (token !== undefined) return `Bearer ${token}`;
    const pair = own('_auth');
    if (pair !== undefined) return `Basic ${pair}`;
    const [name, password] = [own('username'), own('_password')];
    if (name !== undefined && password !== undefined) {
      return basic(`${name}:${Buffer.from(password, 'base64').toString()}`);
    }
  }
  return undefined;
}

/** `//host/a/b/`, `//host/a/b`, `//host/a/`, … `//host`: npm looks for credentials in this order. */
function placesOf(baseUrl: string): readonly string[] {
  const { host, pathname } = new URL(baseUrl);
  const parts = pathname.split('/').filter((part) => part !== '');
  return parts
    .map((_, at) => `//${host}/${parts.slice(0, parts.length - at).join('/')}`)
    .concat(`//${host}`)
    .flatMap((place) => [`${place}/`, place]);
}

function expanded(value: string, env: HostFiles['env']): string {
  const text = value.replace(/^"(.*)"$/, '$1');
  return text.replace(/\$\{([A-Za-z0-9_]+)\}/g, (all, name: string) => env[name] ?? all);
}
