/** What a home keeps, through the library: with a daemon, and without one. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  audit,
  type BuildEvent,
  disk,
  images,
  keys,
  ModelError,
  models,
  OciError,
  type ProgressEvent,
  SandboxError,
  settings,
  TenantError,
  templates,
  tenants,
} from '../../src/index.ts';
import { keepBuilt } from '../support/built-image.ts';
import { startFakeDaemon } from '../support/fake-daemon.ts';
import { makeGguf } from '../support/gguf-models.ts';

const before = { ...process.env };
let dir: string;
let stack: AsyncDisposableStack;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-library-home-'));
  stack = new AsyncDisposableStack();
  stack.defer(() => rmSync(dir, { recursive: true }));
  process.env = { ...before, NEUROVISOR_HOME: dir };
});
afterEach(async () => {
  process.env = before;
  await stack.disposeAsync();
});

function putModel(): string {
  const path = join(dir, 'tiny.gguf');
  writeFileSync(path, makeGguf());
  return path;
}

/** Uses each noun, and leaves one key and one tenant. */
async function useHome(): Promise<void> {
  const context = join(dir, 'context');
  mkdirSync(context, { recursive: true });
  writeFileSync(join(context, 'Dockerfile'), 'FROM scratch\nCOPY . /\n');
  await keepBuilt(process.env['NEUROVISOR_HOME'] ?? '', context, 'the disk');
  const steps: BuildEvent[] = [];
  const built = await images.build(context, { name: 'web', onEvent: (event) => void steps.push(event) });
  expect(built).toMatchObject({ image: { names: ['web:latest'] }, steps: { run: 0, cached: 1 } });
  expect(steps).toMatchObject([{ kind: 'step', text: 'COPY . /', cached: true }]);
  expect(await images.get('web')).toEqual(built.image);
  const events: ProgressEvent[] = [];
  const pulled = await models.pull(putModel(), { name: 'tiny', onProgress: (event) => void events.push(event) });
  expect(events.map(({ kind }) => kind)).toEqual(expect.arrayContaining(['start', 'done']));
  expect(await models.list()).toEqual([pulled.model]);
  expect(await models.remove(['tiny'])).toBeGreaterThan(0);
  expect(await images.prune({ all: true })).toMatchObject({ images: [built.image.digest] });
  expect(await images.list()).toEqual([]);
  expect(await templates.list()).toMatchObject([{ names: ['agent'], key: null }]);
  expect((await disk.usage()).usage.map(({ kind }) => kind)).toContain('models');
  expect(await disk.prune({ all: true })).toMatchObject({ templates: [], images: [] });
  const { key, id } = await keys.create('acme', { name: 'laptop' });
  expect(key).toMatch(/^e2b_/);
  expect((await keys.revoke(id)).revokedAtMs).not.toBeNull();
  expect(await keys.list()).toMatchObject([{ id, tenant: 'acme', name: 'laptop' }]);
  expect(await tenants.set('acme', { sandboxes: 3 })).toMatchObject({ quotas: { sandboxes: 3 } });
  expect(await tenants.get('acme')).toMatchObject({ quotas: { sandboxes: 3, memoryMib: null } });
  expect(await tenants.list()).toHaveLength(1);
  expect(await settings.set({ modelBudget: null })).toEqual({ modelBudget: null, cordoned: false });
  expect(await settings.get()).toEqual({ modelBudget: null, cordoned: false });
}

describe('with a daemon', () => {
  it('the daemon does the work, which its audit log shows', async () => {
    const daemon = stack.use(await startFakeDaemon());
    Object.assign(process.env, daemon.env);
    await useHome();
    const calls = async (): Promise<readonly string[]> => {
      const made: string[] = [];
      for await (const { call } of audit.list({ log: 'calls' })) made.push(call);
      return made;
    };
    const some = ['POST /v1/models/pull', 'POST /v1/disk/prune', 'POST /v1/keys'];
    await expect.poll(calls).toEqual(expect.arrayContaining(some));
    expect(await audit.verify()).toMatchObject({ ok: true });
    await expect(audit.request(999)).rejects.toMatchObject({ code: 'not_found' });
    await expect(images.get('none')).rejects.toMatchObject({ code: 'image_not_found' });
  });

  it('a URL, with the key of a tenant: nothing is allowed', async () => {
    const daemon = stack.use(await startFakeDaemon());
    Object.assign(process.env, daemon.env);
    const { key } = await keys.create('acme');
    const { NEUROVISOR_URL: url } = await daemon.listenOnPort();
    Object.assign(process.env, { NEUROVISOR_HOME: dir, NEUROVISOR_API_KEY: key });
    const there = { daemon: url as `http://${string}` };
    const calls = [
      () => images.list(there),
      () => templates.list(there),
      () => models.list(there),
      () => disk.usage(there),
      () => keys.list(there),
      () => tenants.list(there),
      () => settings.get(there),
      () => audit.verify(there),
      () => audit.list(there).next(),
    ];
    for (const call of calls) await expect(call()).rejects.toMatchObject({ code: 'forbidden' });
    expect(readdirSync(dir)).toEqual([]);
  });
});

describe('without a daemon', () => {
  it("this process does the work, in its home's files", async () => {
    await useHome();
    expect(readdirSync(join(dir, 'tenants'))).toEqual(['acme.json']);
    await expect(audit.list({ log: 'calls' }).next()).rejects.toBeInstanceOf(TenantError);
  });

  it('errors have their classes; what could not be read back is not written', async () => {
    await expect(images.get('none')).rejects.toBeInstanceOf(OciError);
    await expect(images.pull('UPPER')).rejects.toMatchObject({ code: 'reference_invalid' });
    await expect(models.remove(['none'])).rejects.toBeInstanceOf(ModelError);
    await expect(templates.create({ cpus: 0 })).rejects.toBeInstanceOf(SandboxError);
    await expect(templates.create({ name: 'agent', cpus: 0 })).rejects.toMatchObject({ code: 'spec_invalid' });
    await expect(keys.create('../x')).rejects.toBeInstanceOf(TenantError);
    await tenants.set('acme', { sandboxes: 3 });
    const file = join(dir, 'tenants/acme.json');
    const text = readFileSync(file, 'utf8');
    for (const sandboxes of [-1, Number.NaN, '3']) {
      const change = { sandboxes } as { sandboxes: number };
      await expect(tenants.set('acme', change)).rejects.toMatchObject({ code: 'invalid' });
    }
    expect(readFileSync(file, 'utf8')).toBe(text);
  });

  it("daemon: 'require' fails; an abort rejects with the signal's reason", async () => {
    await expect(images.list({ daemon: 'require' })).rejects.toMatchObject({ code: 'daemon_unreachable' });
    await expect(keys.list({ daemon: 'require' })).rejects.toMatchObject({ code: 'daemon_unreachable' });
    const signal = AbortSignal.abort(new Error('enough'));
    await expect(models.list({ signal })).rejects.toThrow('enough');
    expect(existsSync(join(dir, 'host'))).toBe(false);
  });
});
