/** Several models of the built-in engine, as `models.toml` names them. */
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { CleanupStack } from '../../src/base/cleanup.ts';
import { readConfig } from '../../src/base/config.ts';
import { silentLog } from '../../src/base/log.ts';
import { silentProgress } from '../../src/base/progress.ts';
import { readModelsFile } from '../../src/host/runtime/model-servers/models-file.ts';
import { overviewOf } from '../../src/host/runtime/model-servers/overview.ts';
import { openServers } from '../../src/host/runtime/model-servers/servers.ts';
import { pullModel } from '../../src/host/runtime/pulled-models/pull.ts';
import { bridgeFixture } from '../support/bridge-fixture.ts';
import { findModel } from '../support/model.ts';
import { requires } from '../support/requires.ts';

let cleanup: CleanupStack;
let dir: string;
beforeEach(async () => {
  cleanup = new CleanupStack();
  dir = await mkdtemp(join(tmpdir(), 'nv-engines-'));
  cleanup.push('directory', () => rm(dir, { recursive: true, force: true }));
});
afterEach(() => cleanup.run());

requires('model', findModel()).describe('engines of models.toml', (model) => {
  it('each model starts with its first request, is offered under its own name, and ends with the host', async () => {
    const modelPath = model.path;
    const { signal } = new AbortController();
    const pulling = { cacheDir: dir, cwd: dir, progress: silentProgress, signal, log: silentLog };
    await pullModel(pulling, modelPath, { name: 'small' });
    const path = join(dir, 'models.toml');
    await writeFile(
      path,
      `
        [upstreams.fetched]
        engine = true
        [upstreams.own]
        engine = "small"
        [upstreams.missing]
        engine = "missing.gguf"
        discover = false
        [models.assistant]
        routes = [{ upstream = "missing" }, { upstream = "own" }]
      `,
    );
    const config = readConfig({ NEUROVISOR_MODELS: path, NEUROVISOR_JAIL: 'off', NEUROVISOR_GPU: 'cpu' });
    const file = readModelsFile(config, {});
    if (file === null) throw new Error('no file');
    const place = { config, runDir: join(dir, 'run'), cacheDir: dir, log: silentLog };
    const servers = await openServers(file, { ...place, reread: () => null });
    cleanup.push('servers', () => servers.close());
    expect(servers).toMatchObject({ needsModel: true, defaultModel: 'assistant' });
    const routes = servers.source(Promise.resolve({ path: modelPath, id: 'm' }));
    const { call, close } = await bridgeFixture({ routes });
    cleanup.push('bridge', close);

    expect((await overviewOf({ config, env: {}, signal })).servers).toMatchObject([
      { name: 'fetched', kind: 'local', models: ['fetched'], error: null },
      { name: 'own', models: ['own'], error: null },
      { name: 'missing', models: ['missing'], error: null },
    ]);
    const listed = JSON.parse((await call('/v1/models')).body);
    const ids = listed.data.map(({ id }: { id: string }) => id);
    expect(ids.sort()).toEqual(['assistant', 'fetched', 'own']);
    const engines = (): Promise<string[]> => readdir(place.runDir).catch(() => []);
    expect(await engines()).toEqual([]);

    const ask = async (model: string) => {
      const messages = [{ role: 'user', content: 'Say hello.' }];
      const { status, body } = await call('/v1/chat/completions', { model, messages, max_tokens: 4 });
      return [status, JSON.parse(body).usage?.completion_tokens];
    };
    expect(await ask('fetched')).toEqual([200, 4]);
    expect(await engines()).toHaveLength(1);
    // Its first route may be tried first, and has no model; the other one answers.
    expect(await ask('assistant')).toEqual([200, 4]);
    expect(await ask('own')).toEqual([200, 4]);
    expect(await engines()).toHaveLength(2);
    await servers.close();
    expect(await engines()).toEqual([]);
  }, 60_000);
});
