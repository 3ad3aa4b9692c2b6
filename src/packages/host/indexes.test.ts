import { describe, expect, it } from 'vitest';
import type { HostFiles } from './host-files.ts';
import { readIndexes } from './indexes.ts';

function host(
  files: Readonly<Record<string, string>> = {},
  env: Readonly<Record<string, string>> = {},
): HostFiles {
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

const read = (...given: Parameters<typeof host>) => readIndexes(host(...given), []);
const basic = (pair: string): string => `Basic ${Buffer.from(pair).toString('base64')}`;

describe('readIndexes', () => {
  it('without any configuration: the public indexes', async () => {
    const found = await read();
    const bases = Object.entries(found).map(([name, { baseUrl }]) => [name, baseUrl]);
    expect(Object.fromEntries(bases)).toEqual({
      pip: 'https://pypi.org/simple/',
      npm: 'https://registry.npmjs.org/',
      cargo: 'https://index.crates.io/',
      go: 'https://proxy.golang.org/',
      sumdb: 'https://sum.golang.org/',
      debian: 'http://deb.debian.org/debian/',
      'debian-security': 'http://deb.debian.org/debian-security/',
    });
  });

  it('a password never stays in a URL', async () => {
    const url = 'https://me:p%40ss@pip.example/simple';
    const { pip } = await read({}, { PIP_INDEX_URL: url });
    expect(pip).toMatchObject({
      baseUrl: 'https://pip.example/simple/',
      authorization: basic('me:p@ss'),
    });
  });

  it('a password with a percent sign that encodes nothing is taken as it is', async () => {
    const { pip } = await read({}, { PIP_INDEX_URL: 'https://me:5%-p%40ss@pip.example/simple' });
    expect(pip?.authorization).toBe(basic('me:5%-p@ss'));
  });

  it('pip: the variable, then the user’s file, then the system’s, then uv’s variable', async () => {
    const files = {
      '/home/user/.config/pip/pip.conf': '[global]\nindex-url = https://user.example/s\n# x\n',
      '/etc/pip.conf': '[global]\nindex-url = https://system.example/s\ncert = /ca.pem\n',
      '/ca.pem': 'PEM',
    };
    const uv = { UV_DEFAULT_INDEX: 'https://uv.example/s' };
    expect((await read(files, uv)).pip).toMatchObject({
      baseUrl: 'https://user.example/s/',
      ca: 'PEM',
    });
    const variable = { PIP_INDEX_URL: 'https://env.example/s' };
    expect((await read(files, variable)).pip?.baseUrl).toBe('https://env.example/s/');
    expect((await read({}, uv)).pip?.baseUrl).toBe('https://uv.example/s/');
  });

  it('npm: registry, token of that registry alone, and variables in values', async () => {
    const npmrc = [
      'registry=https://npm.example/r/',
      ['//npm.example/r/:_authToken=$', '{TOKEN}'].join(''),
      '//other.example/:_authToken=other',
    ].join('\n');
    const { npm } = await read({ '/home/user/.npmrc': npmrc }, { TOKEN: 't1' });
    expect(npm).toMatchObject({ baseUrl: 'https://npm.example/r/', authorization: 'Bearer t1' });
  });

  it('go: the first proxy of the list, from the variable or from Go’s file; none if there is none', async () => {
    const file = { '/home/user/.config/go/env': 'GOPROXY=https://go.example|direct\n' };
    expect((await read(file)).go?.baseUrl).toBe('https://go.example/');
    expect(await read(file, { GOPROXY: 'direct' })).not.toHaveProperty('go');
    expect(await read(file, { GOSUMDB: 'off' })).not.toHaveProperty('sumdb');
  });

  it('cargo: the source that replaces crates.io, over several steps; none without a sparse index', async () => {
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

  it('apt: mirrors of both forms of files', async () => {
    const files = {
      '/etc/apt/sources.list': '# deb http://no.example/debian x main\n',
      '/etc/apt/sources.list.d/a.list': 'deb [signed-by=/k] https://one.example/x/debian/ s main\n',
      '/etc/apt/sources.list.d/b.sources':
        'Types: deb\nURIs: http://two.example/debian-security\nSuites: s\n',
    };
    const { debian, 'debian-security': security } = await read(files);
    expect([debian?.baseUrl, security?.baseUrl]).toEqual([
      'https://one.example/x/debian/',
      'http://two.example/debian-security/',
    ]);
  });

  it('an index that is no URL is an error that names the setting, not its value', async () => {
    await expect(read({}, { PIP_INDEX_URL: 'ftp://secret@x' })).rejects.toMatchObject({
      code: 'index_invalid',
      message: "the index-url of the host's pip is not an http(s) URL of an index",
    });
  });

  it('hosts of files that the owner names count for every index', async () => {
    const found = await readIndexes(host(), ['files.internal']);
    expect(found.pip?.fileHosts).toEqual(['files.pythonhosted.org', 'files.internal']);
    expect(found.go?.fileHosts).toEqual(['files.internal']);
  });
});
