import { Agent } from 'node:https';
import { describe, expect, it } from 'vitest';
import { PackageError } from '../errors.ts';
import type { IndexName } from '../protocol/artifact.ts';
import type { Configured, Index } from '../upstream/index-set.ts';
import type { HostFiles } from './host-files.ts';
import { readIndexes } from './indexes.ts';

function host(files: Readonly<Record<string, string>> = {}, env: Readonly<Record<string, string>> = {}): HostFiles {
  return {
    env,
    home: '/home/user',
    read: async (path) => files[path],
    list: async (dir) =>
      Object.keys(files)
        .filter((path) => path.startsWith(`${dir}/`))
        .map((path) => path.slice(dir.length + 1)),
  };
}

/** Expects all indexes to be valid. */
async function read(...given: Parameters<typeof host>) {
  const { npmScopes = {}, ...named } = await readIndexes(host(...given), []);
  return { ...valid<IndexName>(named), npmScopes: valid<string>(npmScopes) };
}

function valid<Name extends string>(all: Readonly<Partial<Record<Name, Configured>>>) {
  for (const index of Object.values<Configured | undefined>(all)) {
    if (index instanceof PackageError) throw index;
  }
  return all as Readonly<Partial<Record<Name, Index>>>;
}

const basic = (pair: string): string => `Basic ${Buffer.from(pair).toString('base64')}`;

describe('readIndexes', () => {
  it('uses the public indexes without any configuration', async () => {
    const { npmScopes, ...found } = await read();
    expect(npmScopes).toEqual({});
    const bases = Object.entries(found).map(([name, { baseUrl }]) => [name, baseUrl]);
    expect(Object.fromEntries(bases)).toEqual({
      pip: 'https://pypi.org/simple/',
      npm: 'https://registry.npmjs.org/',
      cargo: 'https://index.crates.io/',
      go: 'https://proxy.golang.org/',
      sumdb: 'https://sum.golang.org/',
      debian: 'http://deb.debian.org/debian/',
      'debian-security': 'http://deb.debian.org/debian-security/',
      ubuntu: 'http://archive.ubuntu.com/ubuntu/',
      'ubuntu-ports': 'http://ports.ubuntu.com/ubuntu-ports/',
    });
  });

  it('a password never stays in a URL', async () => {
    const url = 'https://me:p%40ss@pip.example/simple';
    const { pip } = await read({}, { PIP_INDEX_URL: url });
    expect(pip).toMatchObject({ baseUrl: 'https://pip.example/simple/', authorization: basic('me:p@ss') });
  });

  it('keeps a percent sign in a password that encodes nothing', async () => {
    const { pip } = await read({}, { PIP_INDEX_URL: 'https://me:5%-p%40ss@pip.example/simple' });
    expect(pip?.authorization).toBe(basic('me:5%-p@ss'));
  });

  it('pip: prefers the variable, then the user’s file, then the system’s, then uv’s variable', async () => {
    const files = {
      '/home/user/.config/pip/pip.conf': '[global]\nindex-url = https://user.example/s\n# x\n',
      '/etc/pip.conf': '[global]\nindex-url = https://system.example/s\ncert = /ca.pem\n',
      '/ca.pem': 'PEM',
    };
    const uv = { UV_DEFAULT_INDEX: 'https://uv.example/s' };
    expect((await read(files, uv)).pip).toMatchObject({ baseUrl: 'https://user.example/s/', ca: 'PEM' });
    const variable = { PIP_INDEX_URL: 'https://env.example/s' };
    expect((await read(files, variable)).pip?.baseUrl).toBe('https://env.example/s/');
    expect((await read({}, uv)).pip?.baseUrl).toBe('https://uv.example/s/');
  });

  it('npm: reads the registry, the token of that registry alone, and variables in values', async () => {
    const npmrc = [
      'registry=https://npm.example/r/',
      ['//npm.example/r/:_authToken=$', '{TOKEN}'].join(''),
      '//other.example/:_authToken=other',
    ].join('\n');
    const { npm } = await read({ '/home/user/.npmrc': npmrc }, { TOKEN: 't1' });
    expect(npm).toMatchObject({ baseUrl: 'https://npm.example/r/', authorization: 'Bearer t1' });
  });

  it('go: uses the first proxy of the variable or Go’s file, or none', async () => {
    const file = { '/home/user/.config/go/env': 'GOPROXY=https://go.example|direct\n' };
    expect((await read(file)).go?.baseUrl).toBe('https://go.example/');
    expect(await read(file, { GOPROXY: 'direct' })).not.toHaveProperty('go');
    expect(await read(file, { GOSUMDB: 'off' })).not.toHaveProperty('sumdb');
  });

  it('go: reads private modules from the variable or Go’s file, each list separately', async () => {
    const file = { '/home/user/.config/go/env': 'GOPRIVATE=*.corp.example,github.com/ours\n' };
    const both = ['*.corp.example', 'github.com/ours'];
    const { go, sumdb } = await read(file);
    expect([go?.except, sumdb?.except]).toEqual([both, both]);
    const own = await read(file, { GONOPROXY: 'none', GONOSUMDB: 'a.example' });
    expect([own.go?.except, own.sumdb?.except]).toEqual([['none'], ['a.example']]);
  });

  it('cargo: follows sources that replace crates.io, and uses none without a sparse index', async () => {
    const config = (registry: string) => ({
      '/home/user/.cargo/config.toml': [
        '[source.crates-io]',
        'replace-with = "one"',
        '[source.one]',
        "replace-with = 'two'",
        '[source.two]',
        `registry = "${registry}"`,
      ].join('\n'),
    });
    const { cargo } = await read(config('sparse+https://cargo.example/i'));
    expect(cargo?.baseUrl).toBe('https://cargo.example/i/');
    expect(await read(config('https://git.example/i'))).not.toHaveProperty('cargo');
  });

  it('apt: reads a host of Ubuntu', async () => {
    const sources = 'Types: deb\nURIs: http://de.archive.ubuntu.com/ubuntu/\nSuites: noble\n';
    const { ubuntu, debian } = await read({ '/etc/apt/sources.list.d/ubuntu.sources': sources });
    expect([ubuntu?.baseUrl, debian?.baseUrl]).toEqual([
      'http://de.archive.ubuntu.com/ubuntu/',
      'http://deb.debian.org/debian/',
    ]);
  });

  it('apt: reads mirrors of both file formats', async () => {
    const files = {
      '/etc/apt/sources.list': '# deb http://no.example/debian x main\n',
      '/etc/apt/sources.list.d/a.list': 'deb [signed-by=/k] https://one.example/x/debian/ s main\n',
      '/etc/apt/sources.list.d/b.sources': 'Types: deb\nURIs: http://two.example/debian-security\nSuites: s\n',
    };
    const { debian, 'debian-security': security } = await read(files);
    expect([debian?.baseUrl, security?.baseUrl]).toEqual([
      'https://one.example/x/debian/',
      'http://two.example/debian-security/',
    ]);
  });

  it('an invalid setting affects only its own kind; the error names the setting, not its value', async () => {
    const secret = 's3cret';
    const found = await readIndexes(
      host(
        {
          '/home/user/.npmrc': `registry=ftp://me:${secret}@npm.example/\n@a:registry=https://a.example/\n`,
          '/home/user/.cargo/config.toml': `[source.crates-io]\nreplace-with = "${secret}\n`,
          '/etc/apt/sources.list': 'deb https://apt.example/debian?x s main\n',
        },
        { PIP_INDEX_URL: `ftp://${secret}@x`, GOPROXY: 'https://go.example' },
      ),
      [],
    );
    const errors = Object.entries(found).flatMap(([name, index]) =>
      index instanceof PackageError ? [[name, index.code, index.message]] : [],
    );
    expect(errors).toEqual([
      ['pip', 'index_invalid', "the index-url of the host's pip is not an http(s) URL of an index"],
      ['npm', 'index_invalid', "the registry of the host's npm is not an http(s) URL of an index"],
      ['cargo', 'index_invalid', "config.toml of the host's cargo is no valid TOML"],
      ['debian', 'index_invalid', 'debian in /etc/apt is not an http(s) URL of an index'],
    ]);
    expect(JSON.stringify(errors)).not.toContain(secret);
    expect(found.go).toMatchObject({ baseUrl: 'https://go.example/' });
    expect(found['debian-security']).toMatchObject({ baseUrl: 'http://deb.debian.org/debian-security/' });
  });

  it('an unreadable file affects only its own kind', async () => {
    const files = host();
    const found = await readIndexes(
      {
        ...files,
        read: async (path) => {
          if (path.endsWith('.npmrc')) throw Object.assign(new Error('EIO'), { code: 'EIO' });
          return files.read(path);
        },
      },
      [],
    );
    expect(found.npm).toMatchObject({
      code: 'index_invalid',
      message: "the host's configuration of npm is unreadable",
    });
    expect(found.pip).toMatchObject({ baseUrl: 'https://pypi.org/simple/' });
  });

  it('the owner’s file hosts apply to every index', async () => {
    const found = valid<IndexName>(await readIndexes(host(), ['files.internal']));
    expect(found.pip?.fileHosts).toEqual(['files.pythonhosted.org', 'files.internal']);
    expect(found.go?.fileHosts).toEqual(['files.internal']);
  });
});

describe('npm scopes', () => {
  it('a scope has its own registry with its token; an invalid one affects only that scope', async () => {
    const npmrc = [
      'registry=https://npm.example/r/',
      '//npm.example/r/:_authToken=main',
      '@corp:registry=https://corp.example/npm/private',
      '//corp.example/npm/:_authToken=scoped',
      '@bare:registry=https://bare.example',
      '@bad:registry=nowhere',
    ].join('\n');
    const { npm, npmScopes = {} } = await readIndexes(host({ '/home/user/.npmrc': npmrc }), []);
    expect(npm).toMatchObject({ authorization: 'Bearer main' });
    expect(npmScopes).toMatchObject({
      // Token of a path above it, as npm looks for it.
      '@corp': { baseUrl: 'https://corp.example/npm/private/', authorization: 'Bearer scoped' },
      '@bare': { baseUrl: 'https://bare.example/' },
      '@bad': { code: 'index_invalid' },
    });
    expect(npmScopes['@bare']).not.toHaveProperty('authorization');
  });

  it('reads the registries of many scopes, since the public one may have packages with those names', async () => {
    const lines = Array.from({ length: 300 }, (_, n) => `@s${n}:registry=https://own.example/${n}/`);
    const { npmScopes } = await read({ '/home/user/.npmrc': lines.join('\n') });
    expect(npmScopes['@s299']?.baseUrl).toBe('https://own.example/299/');
  });

  it('prefers a variable for the registry of a scope', async () => {
    const files = { '/home/user/.npmrc': '@a:registry=https://file.example\n' };
    const env = { 'npm_config_@a:registry': 'https://env.example', 'NPM_CONFIG_@Co_x:registry': 'https://co.example' };
    const { npmScopes } = await read(files, env);
    expect(npmScopes['@a']?.baseUrl).toBe('https://env.example/');
    expect(npmScopes['@co-x']?.baseUrl).toBe('https://co.example/');
  });

  it('prefers the user’s file to the system’s', async () => {
    const { npmScopes } = await read({
      '/home/user/.npmrc': '@a:registry=https://user.example/\n',
      '/etc/npmrc': '@a:registry=https://system.example/\n',
    });
    expect(npmScopes['@a']?.baseUrl).toBe('https://user.example/');
  });
});

describe('tokens of cargo', () => {
  const config = [
    '[source.crates-io]',
    'replace-with = "mirror"',
    '[source.mirror]',
    'registry = "sparse+https://cargo.example/i/"',
    '[registries]',
    'corp-one = { index = "sparse+https://cargo.example/i/" }',
  ].join('\n');

  it('uses the token of the registry with the same index, from the credentials file', async () => {
    const { cargo } = await read({
      '/home/user/.cargo/config.toml': config,
      '/home/user/.cargo/credentials.toml': '[registries.corp-one]\ntoken = "t1"\n',
    });
    expect(cargo).toMatchObject({ baseUrl: 'https://cargo.example/i/', authorization: 't1' });
  });

  it('prefers the variable, and does not send another registry’s token', async () => {
    const files = {
      '/home/user/.cargo/config.toml': config,
      '/home/user/.cargo/credentials.toml': '[registries.other]\ntoken = "no"\n',
    };
    const variable = { CARGO_REGISTRIES_CORP_ONE_TOKEN: 't2' };
    expect((await read(files, variable)).cargo?.authorization).toBe('t2');
    expect((await read(files)).cargo).not.toHaveProperty('authorization');
  });

  it.each([
    ['in the file', { file: '\nmirror = { index = "sparse+https://other.example/" }' }],
    ['in a variable', { env: { CARGO_REGISTRIES_MIRROR_INDEX: 'sparse+https://other.example/' } }],
  ])('does not send the token of a registry with the same name elsewhere, %s', async (_what, more) => {
    const { file = '', env } = { env: {}, ...more } as { file?: string; env: Record<string, string> };
    const files = {
      '/home/user/.cargo/config.toml': config + file,
      '/home/user/.cargo/credentials.toml': '[registries.mirror]\ntoken = "other"\n',
    };
    expect((await read(files, env)).cargo).not.toHaveProperty('authorization');
  });

  it('reads a source that is a registry by name', async () => {
    const { cargo } = await read({
      '/home/user/.cargo/config.toml': [
        'source.crates-io.replace-with = "corp"',
        '[registries.corp]',
        'index = "sparse+https://corp.example/"',
        'token = "t3"',
      ].join('\n'),
    });
    expect(cargo).toMatchObject({ baseUrl: 'https://corp.example/', authorization: 't3' });
  });
});

describe('.netrc', () => {
  const netrc = [
    '# machine pip.example login no password no',
    'machine pip.example login me password "p w"',
    'machine go.example',
    '  login gopher',
    '  password x',
    'macdef m',
    'machine evil.example login no password no',
    '',
    'default login all password all',
  ].join('\n');

  it('applies to the index’s host, unless its URL has a password; never by the default entry', async () => {
    const files = { '/home/user/.netrc': netrc };
    const pip = async (url: string): Promise<string | undefined> =>
      (await read(files, { PIP_INDEX_URL: url })).pip?.authorization;
    expect(await pip('https://pip.example/s')).toBe(basic('me:p w'));
    expect(await pip('https://you:q@pip.example/s')).toBe(basic('you:q'));
    expect(await pip('https://evil.example/s')).toBe(undefined);
    expect(await pip('https://x.pip.example/s')).toBe(undefined);
    const { go, npm } = await read(files, { GOPROXY: 'https://go.example' });
    expect(go?.authorization).toBe(basic('gopher:x'));
    expect(npm).not.toHaveProperty('authorization');
  });

  it('go: sends its host’s login only by HTTPS, like Go', async () => {
    const files = { '/home/user/.netrc': netrc };
    const { go } = await read(files, { GOPROXY: 'http://go.example' });
    expect(go).not.toHaveProperty('authorization');
  });

  it('go: respects GOAUTH=off', async () => {
    const env = { GOPROXY: 'https://go.example', GOAUTH: 'off' };
    expect((await read({ '/home/user/.netrc': netrc }, env)).go).not.toHaveProperty('authorization');
  });

  it('apt: applies auth.conf by scheme, host and path', async () => {
    const files = {
      '/etc/apt/sources.list':
        'deb https://apt.example/a/debian s main\ndeb http://apt.example/debian-security s main\n',
      '/etc/apt/auth.conf.d/one.conf': 'machine apt.example/a login me password x\n',
    };
    const { debian, 'debian-security': security } = await read(files);
    expect(debian?.authorization).toBe(basic('me:x'));
    expect(security).not.toHaveProperty('authorization');
  });
});

describe('proxies', () => {
  const env = { HTTPS_PROXY: 'http://me:pw@proxy.example:3128', NO_PROXY: '.internal' };

  it('are not set without configuration', async () => {
    const { npmScopes: _, ...found } = await read();
    for (const index of Object.values(found)) expect(index).not.toHaveProperty('proxies');
  });

  it('from the environment apply to every index', async () => {
    const { npmScopes: _, ...found } = await read({}, env);
    for (const index of Object.values(found)) {
      expect(index.proxies).toEqual({
        http: undefined,
        https: 'http://me:pw@proxy.example:3128/',
        except: '.internal',
      });
    }
  });

  it('are overridden by a client’s own setting for that client', async () => {
    const files = {
      '/home/user/.npmrc': 'https-proxy=http://npm-proxy.example\nnoproxy=a.example\n',
      '/etc/pip.conf': '[global]\nproxy = pip-proxy.example:8080\n',
      '/home/user/.cargo/config.toml': '[http]\nproxy = "http://cargo-proxy.example"\n',
      '/etc/apt/apt.conf.d/proxy': 'Acquire::http::Proxy "http://apt-proxy.example/";\n',
    };
    const { npm, pip, cargo, debian, go } = await read(files, env);
    expect(npm?.proxies).toMatchObject({ https: 'http://npm-proxy.example/', except: 'a.example' });
    expect(pip?.proxies?.https).toBe('http://pip-proxy.example:8080/');
    expect(cargo?.proxies?.https).toBe('http://cargo-proxy.example/');
    expect(debian?.proxies).toMatchObject({ http: 'http://apt-proxy.example/', https: 'http://apt-proxy.example/' });
    expect(go?.proxies?.https).toBe('http://me:pw@proxy.example:3128/');
  });

  it('from ALL_PROXY apply to the clients that use it', async () => {
    const found = await readIndexes(host({}, { ALL_PROXY: 'socks5://localhost:1' }), []);
    const invalid = Object.entries(found).filter(([, index]) => index instanceof PackageError);
    expect(invalid.map(([name]) => name)).toEqual(['pip', 'cargo']);
    expect(found.npm).not.toHaveProperty('proxies');
  });

  it('npm: an unset setting counts as none', async () => {
    const npmrc = 'proxy=null\nhttps-proxy=false\nnoproxy=\n';
    const { npm } = await read({ '/home/user/.npmrc': npmrc }, env);
    expect(npm?.proxies).toMatchObject({
      http: undefined,
      https: 'http://me:pw@proxy.example:3128/',
      except: '.internal',
    });
  });

  it.each([
    ['5%-p', '5%25-p'],
    ['p%40%zz', 'p%40%25zz'],
    ['%ff', '%25ff'],
  ])('keep a percent sign in a password that encodes nothing: %s', async (password, sent) => {
    const { npm } = await read({}, { HTTPS_PROXY: `http://me:${password}@proxy.example` });
    expect(npm?.proxies?.https).toBe(`http://me:${sent}@proxy.example/`);
    // Node refuses others, at each request.
    expect(() => new Agent({ proxyEnv: { HTTPS_PROXY: npm?.proxies?.https } })).not.toThrow();
  });

  it('that are not http(s) URLs give an error without the value', async () => {
    const found = await readIndexes(host({}, { PIP_PROXY: 'socks5://me:s3cret@x' }), []);
    expect(found.pip).toMatchObject({
      code: 'index_invalid',
      message: "the proxy of the host's pip is no http(s) URL",
    });
    expect(found.npm).not.toBeInstanceOf(PackageError);
  });
});
