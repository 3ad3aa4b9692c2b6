/** Models for the built-in engine, pulled from files, directories and a registry by a real skopeo. */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readConfig } from '../../src/base/config.ts';
import { silentLog } from '../../src/base/log.ts';
import type { ProgressEvent } from '../../src/base/progress.ts';
import { modelsPull, modelsRemove } from '../../src/cli/commands/models/pulled.ts';
import { modelsList } from '../../src/cli/commands/models/servers.ts';
import { pulledModelPath } from '../../src/host/runtime/pulled-models/named.ts';
import { pullModel } from '../../src/host/runtime/pulled-models/pull.ts';
import { ModelStore } from '../../src/host/runtime/pulled-models/store.ts';
import type { ModelPullOptions } from '../../src/sandbox/contract/contents.ts';
import {
  dockerModel,
  makeArtifact,
  makeGguf,
  makeParts,
  modelPack,
  ollamaModel,
  orasFiles,
} from '../support/gguf-models.ts';
import { digest, TestRegistry, writeLayout } from '../support/oci-images.ts';
import { testCli } from '../support/test-cli.ts';

let dir: string;
let cacheDir: string;
let home: string | undefined;
let registry: TestRegistry;
let events: ProgressEvent[];
beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'nv-models-'));
  cacheDir = join(dir, 'nv/cache');
  registry = await TestRegistry.start();
  events = [];
  home = process.env['HOME'];
  process.env['HOME'] = dir;
});
afterEach(async () => {
  process.env['HOME'] = home;
  await registry[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true, force: true });
});

const gguf = makeGguf();
const context = (signal = new AbortController().signal, bytesMax?: number) => ({
  cacheDir,
  cwd: dir,
  progress: (event: ProgressEvent) => void events.push(event),
  signal,
  log: silentLog,
  ...(bytesMax === undefined ? {} : { bytesMax }),
});
const pull = (text: string, options: ModelPullOptions = {}, signal?: AbortSignal) =>
  pullModel(context(signal), text, options);
const put = (name: string, content: Uint8Array): string => {
  const path = join(dir, name);
  mkdirSync(join(path, '..'), { recursive: true });
  writeFileSync(path, content);
  return path;
};
const models = async () => (await new ModelStore(cacheDir).list()).map(({ name }) => name);
const expectNothing = async () => {
  expect(await models()).toEqual([]);
  const names = existsSync(join(cacheDir, 'models')) ? readdirSync(join(cacheDir, 'models')) : [];
  expect(names.filter((name) => !name.startsWith('.'))).toEqual([]);
  const tmp = join(cacheDir, 'models/.tmp');
  expect(existsSync(tmp) ? readdirSync(tmp) : []).toEqual([]);
};

describe('from this machine', () => {
  it('a file is copied, with the data of its header; a second pull recognizes it', async () => {
    const path = put('My Model-Q4_K_M.gguf', gguf);
    const { model, wasThere } = await pull(path);
    expect(wasThere).toBe(false);
    expect(model).toMatchObject({
      name: 'My-Model-Q4_K_M',
      source: path,
      quantization: 'Q4_K_M',
      bytes: gguf.length,
      files: [{ name: 'My-Model-Q4_K_M.gguf', digest: digest(gguf) }],
    });
    expect(readFileSync(model.path)).toEqual(gguf);
    expect((await pull(path)).wasThere).toBe(true);
    const other = makeGguf({ numbers: 512 });
    writeFileSync(path, other);
    expect((await pull('./My Model-Q4_K_M.gguf')).model.parameters).toBe(512);
    expect(await models()).toEqual(['My-Model-Q4_K_M']);
  });

  it('a Hugging Face snapshot: links are followed, one of several is named', async () => {
    put('hub/blobs/1', gguf);
    mkdirSync(join(dir, 'hub/snapshots/abc'), { recursive: true });
    symlinkSync('../../blobs/1', join(dir, 'hub/snapshots/abc/x-Q4_0.gguf'));
    expect((await pull('./hub', { name: 'x' })).model.name).toBe('x');
    put('hub/snapshots/abc/x-Q8_0.gguf', gguf);
    await expect(pull('./hub')).rejects.toMatchObject({ code: 'model_ambiguous' });
    expect((await pull('./hub', { file: 'q8' })).model.name).toBe('x-Q8_0');
    await expect(pull('./hub', { file: 'q8', name: 'x' })).rejects.toMatchObject({
      code: 'name_taken',
      remedy: expect.stringContaining('models rm x'),
    });
  });

  it('a model in parts is pulled whole, by its directory or one part, under names that llama.cpp knows', async () => {
    for (const [index, part] of makeParts(2).entries()) put(`p/m-0000${index + 1}-of-00002.gguf`, part);
    const { model } = await pull('./p/m-00002-of-00002.gguf', { name: 'big' });
    expect(model.files.map(({ name }) => name)).toEqual(['big-00001-of-00002.gguf', 'big-00002-of-00002.gguf']);
    expect(model.parameters).toBe(256 + 257);
    expect((await pull('./p')).model.name).toBe('m');
    rmSync(join(dir, 'p/m-00001-of-00002.gguf'));
    await expect(pull('./p')).rejects.toMatchObject({ cause: 'part 1 of 2 is missing' });
    const [alone = gguf] = makeParts(2);
    await expect(pull(put('alone.gguf', alone))).rejects.toMatchObject({ cause: 'a file is part 1 of 2' });
  });

  it.each<[string, Buffer, string]>([
    ['no model', Buffer.from('hello'), 'model_invalid'],
    ['a cut model', gguf.subarray(0, gguf.length - 100), 'model_invalid'],
    ['a vocabulary', makeGguf({ numbers: 0 }), 'model_invalid'],
    ['a projector', makeGguf({ values: { 'general.architecture': 'clip' } }), 'model_unsupported'],
  ])('refuses %s, and leaves nothing behind', async (_what, content, code) => {
    await expect(pull(put('x.gguf', content))).rejects.toMatchObject({ code });
    await expectNothing();
  });

  it('refuses missing files and invalid names', async () => {
    await expect(pull('./none')).rejects.toMatchObject({ code: 'model_not_found' });
    await expect(pull('a b')).rejects.toMatchObject({ code: 'reference_invalid' });
    const path = put('x.gguf', gguf);
    for (const name of ['../x', '', '.tmp', 'a/b', 'x.gguf', 'x'.repeat(97)])
      await expect(pull(path, { name })).rejects.toMatchObject({ code: 'reference_invalid' });
    await expectNothing();
  });
});

describe('from a registry', () => {
  it('accepts each layout', async () => {
    registry.push('latest', dockerModel([gguf]));
    registry.push('pack', modelPack('weights/m.gguf', gguf));
    registry.push('oras', orasFiles({ 'm.gguf': gguf, 'README.md': Buffer.from('x') }));
    registry.push('ollama', ollamaModel(gguf));
    registry.push('parts', dockerModel(makeParts(3)));
    const names: string[] = [];
    for (const tag of ['latest', 'pack', 'oras', 'ollama', 'parts']) {
      const { model } = await pull(registry.name(tag));
      names.push(model.name);
      if (tag !== 'parts') expect(readFileSync(model.path)).toEqual(gguf);
    }
    expect(names).toEqual(['image', 'image-pack', 'image-oras', 'image-ollama', 'image-parts']);
    const asked = registry.asked.length;
    expect((await pull(registry.name('latest'))).wasThere).toBe(true);
    // Only the manifest.
    expect(registry.asked.slice(asked).some((path) => path.includes('/blobs/'))).toBe(false);
    // On a new machine, packages of the host are installed first.
    const titles = events.flatMap((event) => (event.kind === 'start' ? [event.title] : []));
    expect(titles).toContain('Fetch image (1.3 KiB)');
  });

  it('an OCI layout; a tag that moved on replaces the model', async () => {
    writeLayout(join(dir, 'layout'), modelPack('m.gguf', gguf));
    expect((await pull('oci:layout')).model).toMatchObject({ name: 'layout', bytes: gguf.length });
    registry.push('1', dockerModel([gguf]));
    await pull(registry.name('1'), { name: 'm' });
    registry.push('1', dockerModel([makeGguf({ numbers: 512 })]));
    expect((await pull(registry.name('1'), { name: 'm' })).model.parameters).toBe(512);
    await expect(pull('oci:layout', { name: 'm' })).rejects.toMatchObject({ code: 'name_taken' });
  });

  it('a registry that lies is refused, and nothing is left behind', async () => {
    const image = dockerModel([gguf]);
    registry.push('1', image);
    // Other bytes of the same size.
    registry.interfere = ({ url = '' }, response) => {
      if (!url.endsWith(digest(gguf))) return false;
      response.setHeader('content-length', gguf.length);
      response.end(Buffer.alloc(gguf.length, 'x'));
      return true;
    };
    await expect(pull(registry.name('1'))).rejects.toMatchObject({ code: 'model_invalid' });
    // More than the manifest says.
    registry.interfere = ({ url = '' }, response) => {
      if (!url.endsWith(digest(gguf))) return false;
      response.on('error', () => undefined);
      const more = (): void => {
        if (!response.destroyed) response.write(Buffer.alloc(4 << 20), more);
      };
      more();
      return true;
    };
    await expect(pull(registry.name('1'))).rejects.toMatchObject({ code: 'model_too_large' });
    registry.interfere = () => false;
    registry.push('bad', dockerModel([Buffer.from('no model')]));
    await expect(pull(registry.name('bad'))).rejects.toMatchObject({ code: 'model_invalid' });
    registry.push('other', makeArtifact([{ mediaType: 'application/x', bytes: gguf }]));
    await expect(pull(registry.name('other'))).rejects.toMatchObject({ code: 'model_unsupported' });
    await expect(pull(registry.name('none'))).rejects.toMatchObject({ code: 'model_not_found' });
    await expectNothing();
  });

  it('a model beyond the limit, or larger than the disk, is refused before anything is fetched', async () => {
    registry.push('1', dockerModel([gguf]));
    await expect(pullModel(context(undefined, 100), registry.name('1'), {})).rejects.toMatchObject({
      code: 'model_too_large',
    });
    const huge = JSON.parse((dockerModel([gguf]).blobs.get(dockerModel([gguf]).manifestDigest) ?? '').toString());
    huge.layers[0].size = 400 * 1024 ** 3;
    registry.pushManifest('huge', Buffer.from(JSON.stringify(huge)));
    await expect(pull(registry.name('huge'))).rejects.toMatchObject({ code: 'disk_full' });
    expect(registry.asked.some((path) => path.includes('/blobs/'))).toBe(false);
    await expectNothing();
  });

  it('an interrupted pull leaves nothing behind, and one that waits for it fetches by itself', async () => {
    registry.push('1', dockerModel([gguf]));
    let hangs = true;
    registry.interfere = ({ url = '' }, response) => {
      if (!hangs || !url.endsWith(digest(gguf))) return false;
      response.writeHead(200, { 'content-length': gguf.length });
      response.write(gguf.subarray(0, 100));
      return true;
    };
    const aborter = new AbortController();
    const first = pull(registry.name('1'), {}, aborter.signal);
    await expect.poll(() => registry.asked.some((path) => path.endsWith(digest(gguf)))).toBe(true);
    const second = pull(registry.name('1'));
    await expect.poll(() => events.some((one) => one.kind === 'start' && one.title.startsWith('Wait'))).toBe(true);
    hangs = false;
    aborter.abort();
    await expect(first).rejects.toMatchObject({ code: 'cancelled' });
    expect((await second).wasThere).toBe(false);
    expect(await models()).toEqual(['image-1']);
    expect(readdirSync(join(cacheDir, 'models/.tmp'))).toEqual([]);
  });

  it('concurrent equal pulls fetch the model once; leftovers of a killed one are removed soon', async () => {
    mkdirSync(join(cacheDir, 'models/.tmp/killed/new'), { recursive: true });
    mkdirSync(join(cacheDir, 'models/.locks'), { recursive: true });
    registry.push('1', dockerModel([gguf]));
    const all = await Promise.all([1, 2, 3].map(() => pull(registry.name('1'))));
    expect(all.filter(({ wasThere }) => !wasThere)).toHaveLength(1);
    expect(registry.asked.filter((path) => path.endsWith(digest(gguf)))).toHaveLength(1);
    expect(readdirSync(join(cacheDir, 'models/.tmp'))).toEqual([]);
  });
});

it('a model whose record could not be read again leaves nothing behind', async () => {
  // Its parts are valid alone; their sum has no exact number. For type 99, no size is known.
  const parts = makeParts(2).map((part) => {
    const tensor = part.indexOf(Buffer.from('w', 'latin1'), part.lastIndexOf('split.count'));
    part.writeBigUInt64LE(2n ** 53n - 1n, tensor + 5);
    part.writeUInt32LE(99, tensor + 13);
    return part;
  });
  registry.push('1', dockerModel(parts));
  await expect(pull(registry.name('1'))).rejects.toMatchObject({
    code: 'model_invalid',
    cause: expect.stringContaining('parameters'),
  });
  await expectNothing();
});

describe('pulled models', () => {
  const env = () => ({ NEUROVISOR_HOME: join(dir, 'nv'), NEUROVISOR_UPSTREAM: 'engine' });

  it('are listed with how to use them, and removed', async () => {
    const pulling = testCli({ env: env() });
    expect(await modelsPull(pulling.cli, put('m.gguf', gguf), {})).toBe(0);
    expect(pulling.stdout()).toBe('m: 1.3 KiB, Q4_K_M, 256 parameters\nUse it: neurovisor run --model m agent.py\n');
    const listing = testCli({ env: env() });
    await modelsList(listing.cli);
    expect(listing.stdout()).toMatch(/^m {2,}1\.3 KiB {2,}Q4_K_M {2,}256 {2,}2048 .*m\.gguf$/m);
    const json = testCli({ env: env(), json: true });
    await modelsList(json.cli);
    expect(JSON.parse(json.stdout()).pulled).toMatchObject([{ name: 'm', quantization: 'Q4_K_M' }]);
    const removing = testCli({ env: env() });
    await expect(modelsRemove(removing.cli, ['m', 'n'])).rejects.toMatchObject({ code: 'model_not_found' });
    expect(await modelsRemove(removing.cli, ['m'])).toBe(0);
    await expectNothing();
  });

  it('--model finds one, unless models.toml or a configured server has the name', async () => {
    const { model } = await pull(put('m.gguf', gguf));
    const config = (more: Record<string, string> = {}) => readConfig({ NEUROVISOR_HOME: join(dir, 'nv'), ...more });
    expect(pulledModelPath(config(), 'm')).toBe(model.path);
    expect(pulledModelPath(config(), 'n')).toBeNull();
    expect(pulledModelPath(config(), '../models/m')).toBeNull();
    expect(pulledModelPath(config({ NEUROVISOR_UPSTREAM: 'http://127.0.0.1:1/v1' }), 'm')).toBeNull();
    writeFileSync(join(dir, 'nv/models.toml'), '[upstreams.m]\nengine = "m"\n', { mode: 0o600 });
    expect(pulledModelPath(config(), 'm')).toBeNull();
  });

  it('a damaged one can be removed', async () => {
    const { model } = await pull(put('m.gguf', gguf));
    writeFileSync(join(cacheDir, 'models/m/model.json'), '{');
    expect(await models()).toEqual([]);
    const removing = testCli({ env: env() });
    expect(await modelsRemove(removing.cli, ['m'])).toBe(0);
    expect(removing.stdout()).toMatch(/^m\nfreed 1\.3 KiB/);
    expect(existsSync(model.path)).toBe(false);
    await expectNothing();
  });

  it('a damaged one does not count, and is pulled again', async () => {
    const path = put('m.gguf', gguf);
    const { model } = await pull(path);
    writeFileSync(model.path, 'short');
    expect(await models()).toEqual([]);
    expect((await pull(path)).wasThere).toBe(false);
    writeFileSync(join(cacheDir, 'models/m/model.json'), '{"format":1,"files":[{"name":"../../x.gguf"}]}');
    expect(await models()).toEqual([]);
  });
});
