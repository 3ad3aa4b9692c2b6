/**
 * Reads the module proxy of the host's Go: GOPROXY of the environment or of Go's own file, else the public one.
 * Modules that the host does not request from it or from the checksum database (GOPRIVATE, GONOPROXY, GONOSUMDB) are
 * not requested for a guest either.
 */
import { join } from 'node:path';
import type { IndexSet } from '../upstream/index-set.ts';
import type { HostFiles } from './host-files.ts';
import { indexOf } from './index-url.ts';
import { parseIni } from './ini.ts';
import { withNetrc } from './netrc.ts';
import { withProxies } from './proxies.ts';

const DEFAULT = 'https://proxy.golang.org';
const DATABASE = 'sum.golang.org';

/** Empty if the host's Go uses no proxy. @throws PackageError `index_invalid` */
export async function goIndexes(files: HostFiles): Promise<Pick<IndexSet, 'go' | 'sumdb'>> {
  const { env, home, read } = files;
  const config = env['XDG_CONFIG_HOME'] || join(home, '.config');
  const text = await read(env['GOENV'] || join(config, 'go', 'env'));
  const written = text === undefined ? undefined : parseIni(text).get('');
  const value = (name: string): string | undefined => env[name] || written?.get(name);
  // The first of several: the others answer only for what it lacks.
  const proxy = (value('GOPROXY') ?? DEFAULT).split(/[,|]/).find((one) => /^https?:/.test(one));
  if (proxy === undefined) return {};
  const index = indexOf(proxy, "GOPROXY of the host's Go");
  // Go sends the logins of .netrc only by HTTPS.
  const isOpen = value('GOAUTH') === 'off' || index.baseUrl.startsWith('http:');
  const logins = isOpen ? index : await withNetrc(index, files);
  const listed = (name: string): { readonly except?: readonly string[] } => {
    const patterns = (value(name) ?? value('GOPRIVATE') ?? '').split(',').filter(Boolean);
    return patterns.length === 0 ? {} : { except: patterns };
  };
  const go = { ...withProxies(logins, files, 'Go'), ...listed('GONOPROXY') };
  if (value('GOSUMDB') === 'off') return { go };
  const sumdb = withProxies({ baseUrl: `https://${DATABASE}/` }, files, 'Go');
  return { go, sumdb: { ...sumdb, ...listed('GONOSUMDB') } };
}
