/** Images, templates, models and disk usage of a daemon's home, over REST: its client, and the commands beside a running daemon. */
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { sleep } from '../../src/base/clock.ts';
import { daemonSocket, resolveHome } from '../../src/base/home.ts';
import { type ProgressEvent, silentProgress } from '../../src/base/progress.ts';
import { df, prune } from '../../src/cli/commands/disk.ts';
import { imageList, imageRemove } from '../../src/cli/commands/image.ts';
import { modelsPull, modelsRemove } from '../../src/cli/commands/models/pulled.ts';
import { templateList, templateRemove } from '../../src/cli/commands/template.ts';
import type { HomeContents, LongWork } from '../../src/sandbox/contract/contents.ts';
import type { DiskUsage, ImageBuild } from '../../src/sandbox/contract/schema/contents.ts';
import { makeGguf } from '../support/gguf-models.ts';
import { API_KEY, startHomeDaemon } from '../support/home-daemon.ts';
import { testCli } from '../support/test-cli.ts';

let dir: string;
let stack: AsyncDisposableStack;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-contents-'));
  stack = new AsyncDisposableStack();
});
afterEach(async () => {
  await stack.disposeAsync();
  rmSync(dir, { recursive: true });
});

const startDaemon = (change?: (own: HomeContents) => HomeContents) => startHomeDaemon(dir, stack, change);

const work = (progress: LongWork['progress'] = silentProgress, { signal } = new AbortController()): LongWork => ({
  progress,
  signal,
});

const BUILD: ImageBuild = { dockerfile: 'FROM scratch', context: { kind: 'sent', from: 'a' } };

function putModel(): string {
  const path = join(dir, 'tiny.gguf');
  writeFileSync(path, makeGguf());
  return path;
}

const cliHere = (json = true, env: Record<string, string> = {}) =>
  testCli({ json, env: { NEUROVISOR_HOME: dir, ...env } });

describe('contents over REST', () => {
  it('models: pulls a file of the host with progress, lists and removes it', async () => {
    const { connect } = await startDaemon();
    const { models } = await connect();
    const events: ProgressEvent[] = [];
    const pulled = await models.pull(
      putModel(),
      { name: 'tiny' },
      work((event) => void events.push(event)),
    );
    expect(pulled).toMatchObject({ model: { name: 'tiny' }, wasThere: false });
    expect(events[0]).toMatchObject({ kind: 'start', step: 'model-fetch' });
    expect(events.at(-1)).toMatchObject({ kind: 'done', cached: false });
    expect(await models.list()).toEqual([pulled.model]);
    await expect(models.remove(['tiny', 'none'])).rejects.toMatchObject({ code: 'model_not_found' });
    expect(await models.list()).toHaveLength(1);
    expect(await models.remove(['tiny'])).toBeGreaterThanOrEqual(pulled.model.bytes);
    expect(await models.list()).toEqual([]);
  });

  it('errors keep their code and remedy; a name that is no reference is refused', async () => {
    const { images, templates, models } = await (await startDaemon()).connect();
    await expect(images.get('nothing')).rejects.toMatchObject({ code: 'image_not_found', remedy: expect.any(String) });
    await expect(images.remove(['nothing'])).rejects.toMatchObject({ code: 'image_not_found' });
    await expect(images.pull('UPPER', 'always', work())).rejects.toMatchObject({ code: 'reference_invalid' });
    await expect(templates.remove(['nothing'])).rejects.toMatchObject({ code: 'not_found' });
    await expect(templates.create({ name: 'agent' }, work())).rejects.toMatchObject({ code: 'spec_invalid' });
    await expect(models.pull(join(dir, 'none.gguf'), {}, work())).rejects.toMatchObject({ code: 'model_not_found' });
    expect(await images.list()).toEqual([]);
    expect(await images.prune(true)).toEqual({ images: [], bytes: 0 });
  });

  it('a port: the operator may not name files of the host, and a tenant sees nothing', async () => {
    const { connect, keys } = await startDaemon();
    const operator = await connect(API_KEY);
    const path = putModel();
    await expect(operator.models.pull(path, {}, work())).rejects.toMatchObject({ code: 'forbidden' });
    await expect(operator.models.pull(`oci:${dir}`, {}, work())).rejects.toMatchObject({ code: 'forbidden' });
    for (const name of [`docker-archive:${path}`, `oci:${dir}`, 'docker-daemon:a:b']) {
      await expect(operator.images.pull(name, 'always', work())).rejects.toMatchObject({ code: 'forbidden' });
    }
    await expect(operator.templates.import(dir, undefined, work())).rejects.toMatchObject({ code: 'forbidden' });
    expect(await operator.models.list()).toEqual([]);
    const tenant = await connect(keys.create('acme', null).key);
    const calls = [
      () => tenant.images.list(),
      () => tenant.images.pull('a', 'always', work()),
      () => tenant.images.build(BUILD, null, { ...work(), onEvent: () => undefined }),
      () => tenant.images.remove(['a']),
      () => tenant.images.prune(false),
      () => tenant.templates.list(),
      () => tenant.templates.create({}, work()),
      () => tenant.templates.remove(['a']),
      () => tenant.templates.pull('a', undefined, work()),
      () => tenant.models.list(),
      () => tenant.models.pull('a', {}, work()),
      () => tenant.models.remove(['a']),
      () => tenant.disk.usage(),
      () => tenant.disk.prune(true),
    ];
    for (const call of calls) await expect(call()).rejects.toMatchObject({ code: 'forbidden' });
  });

  it('a client that leaves cancels the work; the audit log has its outcome and name', async () => {
    const { promise: begun, resolve: begin } = Promise.withResolvers<AbortSignal>();
    const { connect, audit } = await startDaemon((own) => ({
      ...own,
      images: {
        ...own.images,
        pull: async (_reference, _when, { signal }) => {
          begin(signal);
          return await new Promise((_, reject) => {
            signal.addEventListener('abort', () => reject(signal.reason));
          });
        },
      },
    }));
    const { images, models } = await connect();
    const aborter = new AbortController();
    const pulling = images.pull('python:3.13', 'always', work(undefined, aborter));
    const signal = await begun;
    aborter.abort(new Error('enough'));
    await expect(pulling).rejects.toMatchObject({ code: 'cancelled' });
    await expect.poll(() => signal.aborted).toBe(true);
    await expect(models.pull('Un/Known', {}, work())).rejects.toMatchObject({ code: 'reference_invalid' });
    await expect(models.pull('./x?secret=SECRET', {}, work())).rejects.toMatchObject({ code: 'model_not_found' });
    const text = async (): Promise<string> => {
      await audit.flush();
      return readFileSync(join(dir, 'audit/audit.jsonl'), 'utf8');
    };
    await expect.poll(text).toMatch(/"POST \/v1\/models\/pull","target":null,"status":404/);
    expect(await text()).toMatch(/"POST \/v1\/images\/pull","target":"python:3.13","status":499/);
    expect(await text()).toMatch(/"POST \/v1\/models\/pull","target":"Un\/Known","status":400/);
    expect(await text()).not.toContain('SECRET');
  });

  it('a daemon that ends waits until the canceled work has cleaned up', async () => {
    const { promise: begun, resolve: begin } = Promise.withResolvers<void>();
    const steps: string[] = [];
    const { connect, close } = await startDaemon((own) => ({
      ...own,
      models: {
        ...own.models,
        pull: async (_source, _options, { signal }) => {
          begin();
          await once(signal, 'abort');
          await sleep(50);
          steps.push('cleaned up');
          throw signal.reason;
        },
      },
    }));
    const { models } = await connect();
    const pulling = models.pull('a', {}, work());
    const lost = expect(pulling).rejects.toMatchObject({ code: 'daemon_lost' });
    await begun;
    await close();
    steps.push('closed');
    await lost;
    expect(steps).toEqual(['cleaned up', 'closed']);
  });

  it('bodies, names and counts are bounded', async () => {
    const { url } = await startDaemon();
    const ask = async (method: string, path: string, body?: object): Promise<number> => {
      const headers = { 'x-api-key': API_KEY, ...(body === undefined ? {} : { 'content-type': 'application/json' }) };
      const sent = body === undefined ? {} : { body: JSON.stringify(body) };
      return (await fetch(`${url}/v1${path}`, { method, headers, ...sent })).status;
    };
    expect(await ask('DELETE', '/images')).toBe(400);
    expect(await ask('DELETE', `/models?${'name=a&'.repeat(65)}`)).toBe(400);
    expect(await ask('POST', '/images/pull', { reference: 'a'.repeat(5000) })).toBe(400);
    expect(await ask('POST', '/images/pull', { reference: 'a', other: 1 })).toBe(400);
    expect(await ask('POST', '/templates', { cpus: 0 })).toBe(400);
    expect(await ask('POST', '/disk/prune', { all: 'yes' })).toBe(400);
    expect(await ask('POST', '/disk/prune', { all: true, dir: '/' })).toBe(400);
  });
});

describe('commands beside a running daemon', () => {
  it('models pull and rm, template rm: the daemon of the home does it', async () => {
    const { audit } = await startDaemon();
    const pulled = cliHere();
    expect(await modelsPull(pulled.cli, putModel(), { name: 'tiny' })).toBe(0);
    expect(JSON.parse(pulled.stdout())).toMatchObject({ name: 'tiny', wasThere: false });
    const removed = cliHere();
    expect(await modelsRemove(removed.cli, ['tiny'])).toBe(0);
    expect(readdirSync(join(dir, 'cache/models')).filter((name) => !name.startsWith('.'))).toEqual([]);
    await expect(templateRemove(cliHere().cli, ['none'])).rejects.toMatchObject({ code: 'not_found' });
    await expect(imageRemove(cliHere().cli, ['none'])).rejects.toMatchObject({ code: 'image_not_found' });
    await audit.flush();
    const text = readFileSync(join(dir, 'audit/audit.jsonl'), 'utf8');
    for (const call of ['POST /v1/models/pull', 'DELETE /v1/models', 'DELETE /v1/templates', 'DELETE /v1/images'])
      expect(text).toContain(`"${call}"`);
  });

  it('df and prune: the home of the daemon, and no other', async () => {
    const { url, audit } = await startDaemon();
    const other = mkdtempSync(join(tmpdir(), 'nv-other-'));
    stack.defer(() => rmSync(other, { recursive: true }));
    const file = join('cache/packages', `sha256-${'0'.repeat(64)}`);
    for (const home of [dir, other]) {
      mkdirSync(join(home, 'cache/packages'), { recursive: true });
      writeFileSync(join(home, file), Buffer.alloc(64 * 1024, 1));
    }
    const env = { NEUROVISOR_HOME: other, NEUROVISOR_URL: url, NEUROVISOR_API_KEY: API_KEY };
    const shown = cliHere(true, env);
    expect(await df(shown.cli)).toBe(0);
    const usage = JSON.parse(shown.stdout()) as DiskUsage;
    expect(usage.home).toBe(dir);
    const packages = usage.usage.find(({ kind }) => kind === 'packages');
    expect(packages?.bytes).toBeGreaterThanOrEqual(64 * 1024);
    expect(packages?.reclaimableBytes).toBe(packages?.bytes);
    expect(await prune(cliHere(true, env).cli, {})).toBe(0);
    expect(existsSync(join(dir, file))).toBe(true);
    const pruned = cliHere();
    expect(await prune(pruned.cli, { all: true })).toBe(0);
    expect(JSON.parse(pruned.stdout())).toMatchObject({ templates: [], images: [] });
    expect([existsSync(join(dir, file)), existsSync(join(other, file))]).toEqual([false, true]);
    await audit.flush();
    const text = readFileSync(join(dir, 'audit/audit.jsonl'), 'utf8');
    expect(text.match(/"POST \/v1\/disk\/prune"/g)).toHaveLength(2);
  });

  it('NEUROVISOR_URL: lists what that daemon has, not this home', async () => {
    const { url } = await startDaemon((own) => ({
      ...own,
      templates: {
        ...own.templates,
        list: async () => (await own.templates.list()).map((one) => ({ ...one, names: ['there'] })),
      },
    }));
    const other = mkdtempSync(join(tmpdir(), 'nv-other-'));
    stack.defer(() => rmSync(other, { recursive: true }));
    const env = { NEUROVISOR_HOME: other, NEUROVISOR_URL: url, NEUROVISOR_API_KEY: API_KEY };
    const templates = cliHere(true, env);
    expect(await templateList(templates.cli)).toBe(0);
    expect(JSON.parse(templates.stdout())).toMatchObject([{ names: ['there'] }]);
    const images = cliHere(true, env);
    expect(await imageList(images.cli)).toBe(0);
    expect(JSON.parse(images.stdout())).toEqual([]);
    expect(readdirSync(other)).toEqual([]);
  });

  it('without a daemon: the files of the home, and no daemon is started', async () => {
    const list = cliHere();
    expect(await imageList(list.cli)).toBe(0);
    expect(JSON.parse(list.stdout())).toEqual([]);
    expect(existsSync(daemonSocket(resolveHome(dir)))).toBe(false);
  });
});
