/** Reads the index of the host's pip: PIP_INDEX_URL, else pip.conf, else uv's setting, else PyPI. */
import { join } from 'node:path';
import type { Index } from '../upstream/index-set.ts';
import type { HostFiles } from './host-files.ts';
import { indexOf } from './index-url.ts';
import { type Ini, parseIni } from './ini.ts';
import { withNetrc } from './netrc.ts';
import { withProxies } from './proxies.ts';

const DEFAULT = 'https://pypi.org/simple/';
const FILE_HOSTS = ['files.pythonhosted.org'];

/** @throws PackageError `index_invalid` */
export async function pipIndex(files: HostFiles): Promise<Index> {
  const { env } = files;
  const configured = await configurations(files);
  const fromFiles = (key: string): string | undefined =>
    configured
      .flatMap((ini) => [ini.get('install')?.get(key), ini.get('global')?.get(key)])
      .find((value) => value !== undefined && value !== '');
  const url = env['PIP_INDEX_URL'] || fromFiles('index-url') || env['UV_DEFAULT_INDEX'] || env['UV_INDEX_URL'];
  const index = { ...indexOf(url || DEFAULT, "the index-url of the host's pip"), fileHosts: FILE_HOSTS };
  const certificates = env['PIP_CERT'] || fromFiles('cert');
  const ca = certificates ? await files.read(certificates) : undefined;
  const proxy = env['PIP_PROXY'] || fromFiles('proxy');
  return withProxies(await withNetrc(ca === undefined ? index : { ...index, ca }, files), files, 'pip', {
    http: proxy,
    https: proxy,
  });
}

/** pip's files by precedence: PIP_CONFIG_FILE, the user's, the system's. */
async function configurations({ env, home, read }: HostFiles): Promise<Ini[]> {
  const named = env['PIP_CONFIG_FILE'];
  if (named === '/dev/null') return [];
  const config = env['XDG_CONFIG_HOME'] || join(home, '.config');
  const paths = [
    ...(named ? [named] : []),
    join(config, 'pip', 'pip.conf'),
    join(home, '.pip', 'pip.conf'),
    '/etc/pip.conf',
    '/etc/xdg/pip/pip.conf',
  ];
  const texts = await Promise.all(paths.map((path) => read(path)));
  return texts.flatMap((text) => (text === undefined ? [] : [parseIni(text)]));
}
