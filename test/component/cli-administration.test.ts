/** `neurovisor key`, `tenant`, `host set`, `audit`: at a daemon's socket and port, and without a daemon. */
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tryLockDaemon } from '../../src/host/runtime/daemon-lock.ts';
import { cli } from '../support/cli.ts';
import { type FakeDaemon, startFakeDaemon } from '../support/fake-daemon.ts';

type Env = Readonly<Record<string, string>>;
let daemon: FakeDaemon;
let empty: string;
let remote: Env;
beforeAll(async () => {
  daemon = await startFakeDaemon();
  empty = await mkdtemp(join(tmpdir(), 'nv-elsewhere-'));
  remote = { NEUROVISOR_HOME: empty, ...(await daemon.listenOnPort()) };
});
afterAll(async () => {
  await daemon[Symbol.asyncDispose]();
  await rm(empty, { recursive: true });
});

const run = async (env: Env, ...words: string[]) => await cli(words, { env }).result;
async function json<T>(env: Env, ...words: string[]): Promise<T> {
  const { status, stdout, stderr } = await run(env, ...words, '-o', 'json');
  expect([status, stderr]).toEqual([0, '']);
  return JSON.parse(stdout) as T;
}

interface Created {
  readonly id: string;
  readonly key: string;
}
const lists = async (env: Env) => await json<{ id: string; revokedAtMs: number | null }[]>(env, 'key', 'ls');
/** The status of a request of ours with the key. */
const statusWith = async (key: string): Promise<number> =>
  (await fetch(`${remote['NEUROVISOR_URL']}/v1/sandboxes`, { headers: { 'x-api-key': key } })).status;

describe('with a daemon', () => {
  it.each([
    ['its socket', () => daemon.env],
    ['NEUROVISOR_URL', () => remote],
  ])('%s: a key works from its creation to its revocation', async (_, envOf) => {
    const env = envOf();
    const { id, key } = await json<Created>(env, 'key', 'create', '--tenant', 'acme', '--name', 'ci');
    expect(await statusWith(key)).toBe(200);
    expect(await lists(env)).toContainEqual(expect.objectContaining({ id, tenant: 'acme', name: 'ci' }));
    const stream = await fetch(`${remote['NEUROVISOR_URL']}/v1/events`, { headers: { 'x-api-key': key } });
    expect((await run(env, 'key', 'rm', id)).stdout).toBe(`${id}\n`);
    await expect(stream.text()).rejects.toThrow();
    expect(await statusWith(key)).toBe(401);
    const unknown = await run(env, 'key', 'rm', '0'.repeat(12));
    expect([unknown.status, unknown.stderr]).toEqual([1, expect.stringContaining('there is no key 000000000000')]);
  });

  it('tenant rm: its keys are refused, and what was set is gone', async () => {
    const { key } = await json<Created>(remote, 'key', 'create', '--tenant', 'leaving');
    await run(remote, 'tenant', 'set', 'leaving', '--sandboxes', '3');
    expect((await run(remote, 'tenant', 'rm', 'leaving')).stdout).toBe(
      'leaving: 1 key revoked, 2 sandboxes ended, 1 snapshot removed; its audit logs stay\n',
    );
    expect(await statusWith(key)).toBe(401);
    expect(await json(remote, 'tenant', 'inspect', 'leaving')).toMatchObject({ quotas: { sandboxes: null } });
    const unknown = await run(remote, 'tenant', 'rm', 'nobody');
    expect([unknown.status, unknown.stderr]).toEqual([1, expect.stringContaining('there is no tenant nobody')]);
  });

  it('the audit log names the key, and has no secret of it', async () => {
    const { id, key } = await json<Created>(remote, 'key', 'create', '--tenant', 'acme');
    await run(remote, 'key', 'rm', id);
    await run(remote, 'tenant', 'set', 'acme', '--sandboxes', '3');
    const listed = async () => (await run(daemon.env, 'audit', 'ls', '--calls', '-o', 'json')).stdout;
    await expect.poll(listed).toContain('PATCH /v1/tenants/:tenant');
    const text = await listed();
    const records = text
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    const who = { tenant: null, key: 'daemon' };
    expect(records).toContainEqual(expect.objectContaining({ ...who, call: 'POST /v1/keys', target: id, status: 201 }));
    expect(records).toContainEqual(expect.objectContaining({ ...who, call: 'DELETE /v1/keys/:key', target: id }));
    expect(records).toContainEqual(expect.objectContaining({ call: 'PATCH /v1/tenants/:tenant', target: 'acme' }));
    expect(text).not.toContain(key.slice(4, 20));
    const verified = await json<object>(remote, 'audit', 'verify');
    expect(verified).toMatchObject({ ok: true, problemCount: 0, models: null });
  });

  it('quotas and the budget of the host hold at once', async () => {
    const set = await json<object>(
      remote,
      'tenant',
      'set',
      'beta',
      '--sandboxes',
      '4',
      '--model-budget',
      'output=5,per=1d',
    );
    expect(set).toMatchObject({ quotas: { sandboxes: 4 }, modelBudget: { outputTokens: 5 } });
    const shown = await json<object>(daemon.env, 'tenant', 'inspect', 'beta');
    expect(shown).toMatchObject({
      quotas: { sandboxes: 4, memoryMib: null },
      use: { sandboxes: 0, storage: { disks: 0, templates: 0 } },
    });
    expect((await run(daemon.env, 'tenant', 'inspect', 'beta')).stdout).toMatch(
      /^storage +none +0 B +default\n {2}snapshots +0 B *\n {2}pauses /m,
    );
    expect(await json(daemon.env, 'host', 'set', '--model-budget', 'requests=7,per=1h')).toMatchObject({
      modelBudget: { requests: 7 },
    });
    expect((await run(daemon.env, 'tenant', 'ls')).stdout).toContain('beta');
  });

  it('what a tenant may ask for is replaced by what is named, and taken away by none', async () => {
    const set = async (...words: string[]) => await run(remote, 'tenant', 'set', 'gamma', ...words);
    expect((await set('--allow-net', '10.1.0.0/16', '--allow-net', '10.2.0.1')).status).toBe(0);
    const { stdout } = await set('--allow-field', 'store');
    expect(stdout).toMatch(/^private networks +10\.1\.0\.0\/16, 10\.2\.0\.1 /m);
    expect(stdout).toMatch(/^model fields +store {2}/m);
    const most = await set('--max-cpus', '4', '--max-memory', '8G', '--max-disk', '10G', '--max-timeout', '2h');
    expect(most.stdout).toMatch(/^memory each +8\.0 GiB .*\ndisk each +10\.0 GiB .*\ntimeout each +2h /m);
    expect((await set('--max-cpus', '400')).stderr).toContain('expected a whole number from 1 to 32');
    await set('--allow-net', 'none', '--allow-field', 'none', '--max-timeout', 'none');
    const least = { allowNet: [], allowFields: [], cpusMax: 4, timeoutMaxMs: null };
    expect(await json<object>(daemon.env, 'tenant', 'inspect', 'gamma')).toMatchObject(least);
    for (const [words, why] of [
      [['--allow-net', '10.0.0.1/8'], '"10.0.0.1/8" is not an IPv4 address or block'],
      [['--allow-net', 'none', '--allow-net', '10.0.0.1'], '--allow-net: none and other values'],
    ] as const) {
      const { status, stderr } = await set(...words);
      expect([status, stderr]).toEqual([expect.any(Number), expect.stringContaining(why)]);
      expect(status).not.toBe(0);
    }
  });

  it('what all tenants inherit: a tenant’s own setting wins, and inspect tells which is which', async () => {
    const set = async (...words: string[]) => await run(remote, 'tenant', 'set', ...words);
    expect((await set('--default', '--sandboxes', '7', '--allow-net', '10.3.0.0/16')).status).toBe(0);
    const { stdout } = await set('delta', '--sandboxes', '8', '--storage', 'none');
    expect(stdout).toMatch(/^sandboxes +8 +- +own$/m);
    expect(stdout).toMatch(/^storage +none +- +own$/m);
    expect(stdout).toMatch(/^private networks +10\.3\.0\.0\/16 +- +default$/m);
    await set('delta', '--sandboxes', 'default');
    expect(await json<object>(daemon.env, 'tenant', 'inspect', 'delta')).toMatchObject({
      quotas: { sandboxes: 7 },
      own: ['storageBytes'],
    });
    expect((await run(daemon.env, 'tenant', 'inspect', '--default')).stdout).toMatch(/^sandboxes +7 +- +own$/m);
    const { key } = await json<Created>(remote, 'key', 'create', '--tenant', 'epsilon');
    expect(await json<object[]>(remote, 'tenant', 'ls')).toContainEqual(
      expect.objectContaining({ name: 'epsilon', quotas: expect.objectContaining({ sandboxes: 7 }) }),
    );
    const audited = async () => (await run(daemon.env, 'audit', 'ls', '--calls', '-o', 'json')).stdout;
    await expect.poll(audited).toContain('"target":"_default"');
    for (const words of [
      ['set', '--sandboxes', '1'],
      ['set', 'delta', '--default'],
      ['inspect'],
      ['inspect', 'd', '--default'],
    ]) {
      const { status, stderr } = await run(remote, 'tenant', ...words);
      expect([status, stderr], words.join(' ')).toEqual([2, expect.stringContaining('name of a tenant, or --default')]);
    }
    expect((await set('delta', '--allow-net', 'default', '--allow-net', '10.0.0.1')).stderr).toContain(
      'default and other values',
    );
    expect((await run(remote, 'key', 'create', '--tenant', '_default')).status).not.toBe(0);
    await set('--default', '--sandboxes', 'default', '--allow-net', 'default');
    expect(await statusWith(key)).toBe(200);
  });

  it('a command with NEUROVISOR_URL leaves no file in its own home', () => {
    expect(['keys', 'tenants', 'host', 'daemon.lock'].filter((name) => existsSync(join(empty, name)))).toEqual([]);
  });

  it('a tenant’s key may not administer', async () => {
    const { key } = await json<Created>(remote, 'key', 'create', '--tenant', 'acme');
    const env = { ...remote, NEUROVISOR_API_KEY: key };
    for (const words of [
      'key ls',
      'key create',
      'tenant ls',
      'audit ls',
      'audit verify',
      'host set --model-budget none',
    ]) {
      const { status, stderr } = await run(env, ...words.split(' '));
      expect([status, stderr], words).toEqual([125, expect.stringContaining('are the operator’s')]);
    }
  });
});

describe('without a daemon', () => {
  let home: string;
  let env: Env;
  beforeAll(async () => {
    home = await mkdtemp(join(tmpdir(), 'nv-stopped-'));
    env = { NEUROVISOR_HOME: home };
  });
  afterAll(() => rm(home, { recursive: true }));

  it('commands set the files of the home, and start no daemon', async () => {
    const { id, key } = await json<Created>(env, 'key', 'create', '--expires', '30d');
    expect((await run(env, 'key', 'ls')).stdout).toMatch(/expires in (29|30) d/);
    expect(await lists(env)).toMatchObject([{ id, revokedAtMs: null }]);
    expect(await readFile(join(home, 'keys', `${id}.json`), 'utf8')).not.toContain(key.slice(4, 20));
    await json(env, 'tenant', 'set', 'acme', '--starts', '2');
    expect(await json(env, 'tenant', 'inspect', 'acme')).toMatchObject({ quotas: { startsPerSecond: 2 }, use: null });
    const wrong = await run(env, 'tenant', 'inspect', 'A');
    expect([wrong.status, wrong.stderr]).toEqual([2, expect.stringContaining('not a valid tenant name')]);
    expect((await run(env, 'key', 'rm', id)).status).toBe(0);
    expect((await lists(env))[0]?.revokedAtMs).not.toBeNull();
  });

  it('commands wait for whoever has the home, and audit commands do not', async () => {
    const release = tryLockDaemon({ dir: home }) ?? expect.fail('nobody else has it');
    const waiting = cli(['host', 'set', '--model-budget', 'none'], { env });
    await waiting.seen('waiting for the daemon of this home', 'stderr');
    expect((await run(env, 'audit', 'ls')).stderr).toContain('there is no audit log');
    release();
    expect(await waiting.result).toMatchObject({ status: 0, stdout: 'model budget: none\n' });
  });
});
