/** `neurovisor login`, `logout` and `context`, on daemons at ports. */
import { chmod, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { makeAuthority } from '../support/certificate-authority.ts';
import { cli } from '../support/cli.ts';
import { type FakeDaemon, startFakeDaemon } from '../support/fake-daemon.ts';

let daemon: FakeDaemon;
let url: string;
let key: string;
let home: string;
let id: string;
beforeAll(async () => {
  daemon = await startFakeDaemon();
  ({ id } = await daemon.control.create({}));
  const port = await daemon.listenOnPort();
  url = port['NEUROVISOR_URL'] ?? '';
  key = port['NEUROVISOR_API_KEY'] ?? '';
});
beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'nv-context-'));
});
afterEach(() => rm(home, { recursive: true }));
afterAll(() => daemon[Symbol.asyncDispose]());

const run = (line: string, options: { input?: string; env?: Record<string, string> } = {}) => {
  const { input, env } = options;
  const all = { NEUROVISOR_HOME: home, NEUROVISOR_UPSTREAM: '', ...env };
  return cli(line.split(' '), { env: all, ...(input === undefined ? {} : { input }) }).result;
};
const login = (more = '') => run(`login ${url}${more}`, { input: `${key}\n` });
const file = () => join(home, 'contexts.json');

describe('login', () => {
  it('saves address and key for the owner alone; other commands use them, until logout', async () => {
    expect(await login()).toMatchObject({ status: 0, stdout: '' });
    expect((await stat(file())).mode & 0o777).toBe(0o600);
    expect((await run('ls')).stdout).toContain(id);
    const list = await run('context ls -o json');
    expect(JSON.parse(list.stdout)).toEqual([
      { name: 'local', url: null, caFile: null, isCurrent: false },
      { name: '127.0.0.1', url, caFile: null, isCurrent: true },
    ]);
    expect(list.stdout).not.toContain(key);
    expect((await run('logout')).stdout).toBe('127.0.0.1\n');
    expect(await readFile(file(), 'utf8')).not.toContain(key);
    expect((await run('ls')).stderr).toContain(`no daemon is running at ${home}`);
  });

  it('context use and rm choose among several; local is the daemon of this home', async () => {
    await login(' --name a');
    await login(' --name b');
    expect((await run('context')).stdout).toMatch(/^ +NAME .*\n +local .*\n +a .*\n\* +b .*\n$/s);
    expect((await run('context use local')).status).toBe(0);
    expect((await run('ls')).stderr).toContain(`no daemon is running at ${home}`);
    await run('context use a');
    expect((await run('ls')).stdout).toContain(id);
    expect((await run('context rm b')).status).toBe(0);
    expect((await run('ls')).stdout).toContain(id);
    expect(await run('context use b')).toMatchObject({ status: 2, stderr: expect.stringContaining('unknown context') });
  });

  it('a wrong key, address or name saves nothing', async () => {
    const wrong = await run(`login ${url}`, { input: 'wrong' });
    expect([wrong.status, wrong.stderr]).toEqual([125, expect.stringContaining('the API key is wrong')]);
    expect(wrong.stderr).toContain(`log in with another key: neurovisor login ${url}`);
    for (const [line, input, text] of [
      ['login ftp://x', 'k', 'invalid address "ftp://x"'],
      [`login ${url} --name local`, 'k', 'invalid context name "local"'],
      [`login ${url} --name ../x`, 'k', 'invalid context name "../x"'],
      [`login ${url}`, '', 'missing or invalid API key'],
      [`login ${url}`, 'a\nb', 'missing or invalid API key'],
    ] as const) {
      expect(await run(line, { input })).toMatchObject({ status: 2, stderr: expect.stringContaining(text) });
    }
    await expect(stat(file())).rejects.toMatchObject({ code: 'ENOENT' });
    expect(await run('logout')).toMatchObject({ status: 2, stderr: expect.stringContaining('no current context') });
  });

  it('--ca: the authority of this daemon', async () => {
    const authority = await makeAuthority();
    const tls = await daemon.listenOnPort(await authority.issue(['localhost']));
    const ca = join(home, 'ca.pem');
    await writeFile(ca, authority.cert);
    const without = await run(`login ${tls['NEUROVISOR_URL']}`, { input: key });
    expect([without.status, without.stderr]).toEqual([125, expect.stringContaining('fix: log in with --ca FILE')]);
    expect((await run(`login ${tls['NEUROVISOR_URL']} --ca ${ca}`, { input: key })).status).toBe(0);
    expect((await run('ls')).stdout).toContain(id);
  });
});

describe('a context', () => {
  it('never gives its key to the daemon of NEUROVISOR_URL', async () => {
    await login();
    const { status, stderr } = await run('ls', { env: { NEUROVISOR_URL: url } });
    expect([status, stderr]).toEqual([125, expect.stringContaining('the request has no API key')]);
  });

  it('its key wins over NEUROVISOR_API_KEY, which is of another daemon', async () => {
    await login();
    expect((await run('ls', { env: { NEUROVISOR_API_KEY: 'other' } })).stdout).toContain(id);
  });

  it('is refused where a command acts on this machine, and not read by serve', async () => {
    await login();
    expect((await run('net ls')).stderr).toContain('the context 127.0.0.1 names a daemon');
    await writeFile(file(), '{');
    expect((await run('ls')).stderr).toContain(`Remove ${file()}`);
    expect((await run('serve --port 0 --host 0.0.0.0')).stderr).toContain('--tls-cert');
  });

  it.each([['{"current":"x","contexts":{}}'], ['{"current":null,"contexts":{"x":{"url":"file:///x"}}}'], ['null']])(
    'a damaged file is refused: %s',
    async (text) => {
      await writeFile(file(), text, { mode: 0o600 });
      expect(await run('ls')).toMatchObject({ status: 125, stderr: expect.stringContaining('contexts.json') });
    },
  );

  it('a file that others can read is refused', async () => {
    await login();
    await chmod(file(), 0o644);
    expect((await run('ls')).stderr).toContain('other users can read or write it');
  });
});
