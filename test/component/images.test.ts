/** Images from archives, layouts and a registry, with a real skopeo; the VM is a fake that records its inputs. */
import { execFileSync } from 'node:child_process';
import {
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import type { ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { ImageBuilder, LayerJob, MergeJob } from '../../src/artifacts/oci/builder.ts';
import { FETCH_LIMITS } from '../../src/artifacts/oci/fetch.ts';
import { IMAGE_LIMITS, Images, type ImagesOptions } from '../../src/artifacts/oci/images.ts';
import { parseReference } from '../../src/artifacts/oci/reference.ts';
import { silentLog } from '../../src/base/log.ts';
import { type ProgressEvent, silentProgress } from '../../src/base/progress.ts';
import { resolveEnvironment } from '../../src/host/runtime/images.ts';
import { digest, makeImage, makeIndex, type TestImage, TestRegistry, tar, writeLayout } from '../support/oci-images.ts';

const ARCHITECTURE = process.arch === 'x64' ? 'amd64' : process.arch;

class FakeBuilder implements ImageBuilder {
  readonly layers: LayerJob[] = [];
  readonly merges: MergeJob[] = [];
  fault: Error | undefined;

  async layer(job: LayerJob, outPath: string): Promise<void> {
    this.layers.push(job);
    if (this.fault !== undefined) throw this.fault;
    expect(statSync(job.blobPath).size).toBe(job.blobBytes);
    writeFileSync(outPath, Buffer.alloc(4096, job.diffId));
  }

  async merge(job: MergeJob, outPath: string): Promise<void> {
    this.merges.push(job);
    writeFileSync(outPath, Buffer.concat(job.layers.map(({ path }) => readFileSync(path))));
  }
}

describe('Images', () => {
  let dir: string;
  let builder: FakeBuilder;
  let home: string | undefined;
  let registry: TestRegistry;
  const { signal } = new AbortController();

  beforeEach(async () => {
    dir = mkdtempSync(join(tmpdir(), 'nv-images-'));
    builder = new FakeBuilder();
    registry = await TestRegistry.start();
    home = process.env['HOME'];
    process.env['HOME'] = dir;
    // No configuration: a registry on loopback needs none to speak plain HTTP.
  });

  afterEach(async () => {
    process.env['HOME'] = home;
    await registry[Symbol.asyncDispose]();
    rmSync(dir, { recursive: true, force: true });
  });

  const open = (more: Partial<ImagesOptions> = {}): Images =>
    new Images({
      cacheDir: join(dir, 'cache'),
      architecture: ARCHITECTURE,
      builder,
      progress: silentProgress,
      ...more,
    });
  const pull = (images: Images, name: string, when: 'always' | 'missing' = 'always') =>
    images.pull(parseReference(name, dir), when, signal);
  const filesIn = (name: string): string[] => {
    const path = join(dir, 'cache/oci', name);
    return existsSync(path) ? readdirSync(path) : [];
  };
  const base = tar([
    { name: 'etc/', type: 'dir' },
    { name: 'etc/a', data: 'a' },
  ]);
  const upper = tar([{ name: 'etc/b', data: 'b' }]);
  const config = { User: 'app', Env: ['A=b'], WorkingDir: '/srv', Cmd: ['/bin/x'] };
  const image = (): TestImage => makeImage([{ tar: base }, { tar: upper, compression: 'zstd' }], config);

  it('pull: from a registry, each layer by its content, then merged; a second pull builds nothing', async () => {
    const made = image();
    registry.push('1', made);
    const images = open();
    const { image: stored, environment } = await pull(images, registry.name('1'));
    expect(stored).toMatchObject({ digest: made.manifestDigest, names: [registry.name('1')] });
    expect(builder.layers.map(({ diffId, compression }) => [diffId, compression])).toEqual([
      [made.diffIds[0], 'gzip'],
      [made.diffIds[1], 'zstd'],
    ]);
    expect(builder.merges).toHaveLength(1);
    expect(environment).toEqual({
      image: join(dir, 'cache/oci/environments', filesIn('environments').find((name) => name.endsWith('.erofs')) ?? ''),
      digest: digest(readFileSync(environment.image)),
      user: 'app',
      env: { A: 'b' },
      workdir: '/srv',
      entrypoint: [],
      cmd: ['/bin/x'],
    });
    expect(filesIn('tmp')).toEqual([]);

    const asked = registry.asked.length;
    expect((await pull(images, registry.name('1'))).environment).toEqual(environment);
    expect(registry.asked.slice(asked).filter((url) => url.includes('/blobs/'))).toEqual([]);
    const quiet = registry.asked.length;
    expect((await pull(images, registry.name('1'), 'missing')).environment).toEqual(environment);
    expect(registry.asked).toHaveLength(quiet);
    expect(builder.layers).toHaveLength(2);
    expect(builder.merges).toHaveLength(1);
  });

  it('pull: uses the login that docker login stored, and fails without it', async () => {
    const login = Buffer.from('me:secret').toString('base64');
    registry.push('1', image());
    registry.interfere = ({ headers }, response) => {
      if (headers.authorization === `Basic ${login}`) return false;
      response.statusCode = 401;
      response.setHeader('www-authenticate', 'Basic realm="test"');
      response.end('{}');
      return true;
    };
    await expect(pull(open(), registry.name('1'))).rejects.toMatchObject({ code: 'unauthorized' });
    mkdirSync(join(dir, '.docker'));
    const auths = { [registry.host]: { auth: login } };
    writeFileSync(join(dir, '.docker/config.json'), JSON.stringify({ auths }));
    const asStranger = open().pull(parseReference(registry.name('1'), dir), 'missing', signal, () => false);
    await expect(asStranger).rejects.toMatchObject({ code: 'unauthorized' });
    const asked: string[] = [];
    const mayLogIn = (host: string): boolean => asked.push(host) > 0;
    await open().pull(parseReference(registry.name('1'), dir), 'missing', signal, mayLogIn);
    expect(asked).toEqual([registry.host]);
    expect((await pull(open(), registry.name('1'))).image.digest).toBe(image().manifestDigest);
  });

  it('pull: from the mirror that registries.conf names', async () => {
    registry.push('1', image());
    const entry = `[[registry]]\nprefix = "registry.invalid/far"\nlocation = "${registry.host}/test"\ninsecure = true\n`;
    mkdirSync(join(dir, '.config/containers'), { recursive: true });
    writeFileSync(join(dir, '.config/containers/registries.conf'), entry);
    const { image: stored } = await pull(open(), 'registry.invalid/far/image:1');
    expect(stored.names).toEqual(['registry.invalid/far/image:1']);
  });

  it('pull: two concurrent pulls fetch and build once', async () => {
    registry.push('1', image());
    const images = open();
    const both = [pull(images, registry.name('1')), pull(images, registry.name('1'))];
    const [one, two] = await Promise.all(both);
    expect(two).toEqual(one);
    const blobs = registry.asked.filter((url) => url.includes('/blobs/'));
    expect(new Set(blobs).size).toBe(blobs.length);
    expect(builder.layers).toHaveLength(2);
  });

  it('pull: images share layers, which are neither fetched nor unpacked again', async () => {
    const other = makeImage([{ tar: base }, { tar: tar([{ name: 'x' }]) }], config);
    registry.push('1', image());
    registry.push('2', other);
    const images = open();
    await pull(images, registry.name('1'));
    const asked = registry.asked.length;
    await pull(images, registry.name('2'));
    const shared = JSON.parse(String(image().blobs.get(image().manifestDigest))).layers[0].digest;
    expect(registry.asked.slice(asked).join('\n')).not.toContain(shared);
    expect(builder.layers).toHaveLength(3);
  });

  it('pull: a layer that gives itself the content of another changes no image but those with its bytes', async () => {
    const honest = image();
    const [claimed] = honest.diffIds;
    const evil = makeImage(
      [
        { tar: tar([{ name: 'evil' }]), ...(claimed && { diffId: claimed }) },
        { tar: upper, compression: 'zstd' },
      ],
      config,
    );
    expect(evil.diffIds).toEqual(honest.diffIds);
    registry.push('evil', evil);
    registry.push('honest', honest);
    // The VM is taken over, and compares nothing.
    builder.layer = async (job, outPath) => {
      builder.layers.push(job);
      writeFileSync(outPath, readFileSync(job.blobPath));
    };
    const images = open();
    const { environment: spoiled } = await pull(images, registry.name('evil'));
    const { environment } = await pull(images, registry.name('honest'));
    const contentOf = (one: TestImage): Buffer => {
      const { layers } = JSON.parse(String(one.blobs.get(one.manifestDigest)));
      return Buffer.concat(layers.map((layer: { digest: string }) => one.blobs.get(layer.digest)));
    };
    expect(readFileSync(spoiled.image)).toEqual(contentOf(evil));
    expect(readFileSync(environment.image)).toEqual(contentOf(honest));
    // The layer with the same bytes is shared.
    expect(builder.layers).toHaveLength(3);
  });

  it('prune: removes layers and disks with the names of version 0.2', async () => {
    registry.push('1', image());
    const images = open();
    await pull(images, registry.name('1'));
    const old = ['layers', 'environments'].map((kind) =>
      join(dir, 'cache/oci', kind, `${image().diffIds[0]?.slice(7)}.erofs`),
    );
    for (const path of old) writeFileSync(path, 'x');
    await images.prune(false, signal);
    expect(old.map((path) => existsSync(path))).toEqual([false, false]);
    expect(filesIn('layers')).toHaveLength(2);
  });

  it('pull: from an OCI layout, and from what docker save writes', async () => {
    writeLayout(join(dir, 'layout'), makeImage([{ tar: base }, { tar: upper }], config));
    const images = open();
    const first = await pull(images, 'oci:layout:latest');
    const saved = `docker-archive:${dir}/saved.tar:a:1`;
    execFileSync('skopeo', ['--insecure-policy', 'copy', '--quiet', `oci:${dir}/layout:latest`, saved]);
    const second = await pull(images, 'docker-archive:saved.tar');
    // Uncompressed layers are other bytes, with the same content.
    expect(second.environment).toEqual({ ...first.environment, image: second.environment.image });
    expect(second.image.names).toEqual([`docker-archive:${dir}/saved.tar`]);
  });

  it('pull: an index is resolved for this machine, or the error names its platforms', async () => {
    const ours = image();
    const foreign = makeImage([{ tar: upper }], {}, { os: 'linux', architecture: 's390x' });
    const theirs = { image: foreign, platform: { os: 'linux', architecture: 's390x' } };
    registry.push('ours', ours);
    registry.push('theirs', foreign);
    const both = [theirs, { image: ours, platform: { os: 'linux', architecture: ARCHITECTURE } }];
    registry.pushManifest('both', makeIndex(both));
    registry.pushManifest('none', makeIndex([theirs]));
    const images = open();
    expect((await pull(images, registry.name('both'))).image.digest).toBe(ours.manifestDigest);
    for (const tag of ['none', 'theirs']) {
      await expect(pull(images, registry.name(tag))).rejects.toMatchObject({
        code: 'image_unsupported',
        message: expect.stringContaining('linux/s390x'),
      });
    }
    expect(filesIn('tmp')).toEqual([]);
  });

  it('pull: by digest, another content is refused', async () => {
    const made = image();
    registry.push('1', made);
    const pinned = `${registry.host}/test/image@${made.manifestDigest}`;
    expect((await pull(open(), pinned)).image.digest).toBe(made.manifestDigest);
    const other = makeImage([{ tar: upper }]);
    registry.push(made.manifestDigest, other);
    const wrong = open({ cacheDir: join(dir, 'other') });
    await expect(pull(wrong, pinned)).rejects.toMatchObject({ code: 'image_invalid' });
  });

  it.each([
    [401, 'unauthorized'],
    [403, 'unauthorized'],
    [404, 'image_not_found'],
    [429, 'rate_limited'],
    [500, 'registry_failed'],
  ])('pull: a registry that answers %i gives a clear error and leaves nothing behind', async (status, code) => {
    registry.interfere = (_, response) => {
      response.statusCode = status;
      // skopeo retries after this time, in seconds.
      response.setHeader('retry-after', '1');
      response.end('{}');
      return true;
    };
    const failure = await pull(open(), registry.name('1')).catch((error: unknown) => error);
    expect(failure).toMatchObject({ code, remedy: expect.any(String) });
    expect(filesIn('tmp')).toEqual([]);
    expect(await open().list()).toEqual([]);
  });

  it('pull: a registry that dies, lies or floods in the middle of a layer leaves nothing behind', async () => {
    const big = Buffer.alloc(200_000, 'x');
    const made = makeImage([{ tar: tar([{ name: 'x', data: big }]), compression: 'none' }]);
    registry.push('1', made);
    const isLayer = (url = ''): boolean => url.includes('/blobs/') && url.endsWith(made.diffIds[0] ?? '-');
    const answers: [string, (response: ServerResponse) => void][] = [
      ['dies', (response) => void response.write('x', () => response.destroy())],
      ['lies', (response) => response.end(Buffer.alloc(201_728))],
      [
        'floods',
        (response) => {
          const more = (): void => {
            while (!response.destroyed && response.write(Buffer.alloc(1 << 20)));
            if (!response.destroyed) response.once('drain', more);
          };
          more();
        },
      ],
    ];
    for (const [, answer] of answers) {
      registry.interfere = ({ url }, response) => {
        if (!isLayer(url)) return false;
        answer(response);
        return true;
      };
      await expect(pull(open(), registry.name('1'))).rejects.toMatchObject({
        code: expect.stringMatching(/^(registry_failed|image_invalid|image_too_large)$/),
      });
      expect([filesIn('tmp'), filesIn('blobs')]).toEqual([[], []]);
    }
    expect(builder.layers).toEqual([]);
  });

  it('pull: a silent registry times out; a canceled pull leaves nothing behind', async () => {
    registry.push('1', image());
    registry.interfere = ({ url = '' }) => url.includes('/blobs/');
    const silent = open({ fetchLimits: { ...FETCH_LIMITS, silenceMsMax: 500 } });
    await expect(pull(silent, registry.name('1'))).rejects.toMatchObject({ code: 'registry_failed' });
    registry.interfere = () => true;
    await expect(pull(silent, registry.name('1'))).rejects.toMatchObject({ code: 'registry_failed' });
    registry.interfere = ({ url = '' }) => url.includes('/blobs/');
    const aborter = new AbortController();
    const reference = parseReference(registry.name('1'), dir);
    const canceled = open().pull(reference, 'always', aborter.signal);
    canceled.catch(() => undefined);
    await expect.poll(() => filesIn('tmp')).toHaveLength(1);
    aborter.abort();
    await expect(canceled).rejects.toMatchObject({ code: 'cancelled' });
    expect(filesIn('tmp')).toEqual([]);
  });

  it('pull: a compressed archive that unpacks to more than the limit is refused, and removed', async () => {
    const part = gzipSync(Buffer.alloc(64 << 20), { level: 1 });
    writeFileSync(join(dir, 'bomb.tar.gz'), Buffer.concat(Array.from({ length: 32 }, () => part)));
    const small = open({ fetchLimits: { ...FETCH_LIMITS, imageBytesMax: 1 << 20 } });
    const elsewhere = readdirSync('/var/tmp');
    await expect(pull(small, 'docker-archive:bomb.tar.gz')).rejects.toMatchObject({
      code: 'image_too_large',
      cause: 'it has more than 1 MiB',
    });
    expect(filesIn('tmp')).toEqual([]);
    expect(readdirSync('/var/tmp').filter((name) => !elsewhere.includes(name))).toEqual([]);
  });

  it('pull: a manifest that skopeo reads differently is refused', async () => {
    const made = image();
    const other = makeImage([{ tar: upper }]);
    registry.push('other', other);
    registry.push('1', made);
    // Go takes the last of names that differ only by case.
    const { layers } = JSON.parse(String(other.blobs.get(other.manifestDigest)));
    const manifest = JSON.parse(String(made.blobs.get(made.manifestDigest)));
    const two = Buffer.from(JSON.stringify({ ...manifest, Layers: layers }));
    for (const tag of ['two', digest(two)]) registry.pushManifest(tag, two);
    await expect(pull(open(), registry.name('two'))).rejects.toMatchObject({ code: 'image_invalid' });
    expect([filesIn('tmp'), filesIn('blobs')]).toEqual([[], []]);
  });

  it('pull: an image beyond the limit is refused before anything is fetched', async () => {
    registry.push('1', image());
    const small = open({ fetchLimits: { ...FETCH_LIMITS, imageBytesMax: 10 } });
    await expect(pull(small, registry.name('1'))).rejects.toMatchObject({ code: 'image_too_large' });
    expect(registry.asked.filter((url) => url.includes('/blobs/'))).toEqual([]);
  });

  it('pull: a layer that fails in the VM leaves no environment, and the next pull tries again', async () => {
    registry.push('1', image());
    const events: ProgressEvent[] = [];
    const images = open({ progress: (event) => events.push(event) });
    builder.fault = new Error('the VM ended');
    await expect(pull(images, registry.name('1'))).rejects.toThrow('the VM ended');
    expect(events.at(-1)).toMatchObject({ kind: 'failed', step: 'image-layers' });
    expect([filesIn('layers'), filesIn('environments')]).toEqual([[], []]);
    builder.fault = undefined;
    await pull(images, registry.name('1'));
  });

  it('pull: when another process removes the files of a pull again and again, the error says so', async () => {
    registry.push('1', image());
    const progress = ({ kind, step }: ProgressEvent): void => {
      if (kind !== 'start' || step !== 'image-layers') return;
      for (const name of filesIn('blobs')) rmSync(join(dir, 'cache/oci/blobs', name));
    };
    const pulling = pull(open({ progress }), registry.name('1'));
    const failure = await pulling.catch((error: unknown) => error);
    expect(failure).toMatchObject({ code: 'disk_full', remedy: expect.stringContaining('NEUROVISOR_IMAGE_QUOTA_GIB') });
  });

  it('rm: a disk that has another hard link is not freed', async () => {
    registry.push('1', image());
    const images = open();
    const { environment } = await pull(images, registry.name('1'));
    const bytes = statSync(environment.image).blocks * 512;
    expect(bytes).toBeGreaterThan(0);
    linkSync(environment.image, join(dir, 'of a template'));
    const files = ['blobs', 'layers'].flatMap((kind) =>
      filesIn(kind).map((name) => statSync(join(dir, 'cache/oci', kind, name)).blocks * 512),
    );
    const removed = await images.remove([registry.name('1')], dir, signal);
    expect(removed.bytes).toBe(files.reduce((sum, one) => sum + one, 0));
    expect(filesIn('environments')).toEqual([]);
  });

  it('rm: frees what no other image needs; prune: removes images whose tags moved on', async () => {
    const other = makeImage([{ tar: base }], config);
    registry.push('1', image());
    registry.push('2', other);
    const images = open();
    await pull(images, registry.name('1'));
    await pull(images, registry.name('2'));
    const removed = await images.remove([registry.name('1')], dir, signal);
    expect(removed).toMatchObject({ images: [image().manifestDigest] });
    expect(removed.bytes).toBeGreaterThan(0);
    expect([filesIn('blobs'), filesIn('layers')].map((list) => list.length)).toEqual([1, 1]);
    await expect(images.find(registry.name('1'), dir)).rejects.toMatchObject({ code: 'image_not_found' });
    expect((await images.find(other.manifestDigest.slice(0, 20), dir)).digest).toBe(other.manifestDigest);

    registry.push('2', makeImage([{ tar: upper }], config));
    await pull(images, registry.name('2'));
    expect(await images.list()).toHaveLength(2);
    expect((await images.prune(false, signal)).images).toEqual([other.manifestDigest]);
    expect((await images.prune(true, signal)).images).toHaveLength(1);
    expect([filesIn('blobs'), filesIn('layers'), filesIn('environments')]).toEqual([[], [], []]);
  });

  it('prune: a file that another process has just removed is no failure', async () => {
    const blobs = join(dir, 'cache/oci/blobs');
    mkdirSync(blobs, { recursive: true });
    // Listed, but missing.
    symlinkSync('gone', join(blobs, 'a'.repeat(64)));
    expect(await open().prune(true, signal)).toEqual({ images: [], bytes: 0 });
  });

  it('pull: leftovers of a killed pull are removed a day later', async () => {
    const oci = join(dir, 'cache/oci');
    const [old, young] = [join(oci, 'tmp/old'), join(oci, 'tmp/young')];
    for (const path of [old, young]) mkdirSync(path, { recursive: true });
    utimesSync(old, 1, 1);
    mkdirSync(join(oci, 'layers'));
    const unfinished = join(oci, `layers/${'a'.repeat(64)}.erofs.unfinished`);
    writeFileSync(unfinished, '');
    utimesSync(unfinished, 1, 1);
    registry.push('1', image());
    await pull(open(), registry.name('1'));
    expect(filesIn('tmp')).toEqual(['young']);
    expect(existsSync(unfinished)).toBe(false);
  });

  it('quota: the least recently used files are removed, and fetched again when needed', async () => {
    registry.push('1', image());
    registry.push('2', makeImage([{ tar: tar([{ name: 'y' }]) }], config));
    const images = open({ limits: { ...IMAGE_LIMITS, quotaBytes: 8192 } });
    await pull(images, registry.name('1'));
    for (const kind of ['environments']) {
      for (const name of filesIn(kind)) utimesSync(join(dir, 'cache/oci', kind, name), 1, 1);
    }
    await pull(images, registry.name('2'));
    expect(filesIn('environments').filter((name) => name.endsWith('.erofs'))).toHaveLength(1);
    const layers = builder.layers.length;
    await pull(images, registry.name('1'), 'missing');
    expect(builder.layers.length).toBeGreaterThan(layers);
  });

  describe('resolveEnvironment', () => {
    const resolve = (name: string, readsHost = true, log = silentLog) =>
      resolveEnvironment(open(), name, { signal, log, readsHost });

    it('pulls the image once; afterwards its name is not resolved again', async () => {
      const made = image();
      registry.push('1', made);
      const found = await resolve(registry.name('1'));
      expect(found.environment).toEqual({
        image: registry.name('1'),
        imageDigest: made.manifestDigest,
        digest: digest(readFileSync(found.path)),
        user: 'app',
        env: { A: 'b' },
        workdir: '/srv',
        entrypoint: [],
        cmd: ['/bin/x'],
        exposedPorts: [],
        stopSignal: null,
      });
      const asked = registry.asked.length;
      expect(await resolve(registry.name('1'))).toEqual(found);
      expect(registry.asked.length).toBe(asked);
    });

    it('a variable whose name no sandbox can have is omitted, with a warning', async () => {
      const warned: string[] = [];
      const log = { ...silentLog, warn: (text: string) => void warned.push(text) };
      const odd = { ...config, Env: ['A=b', 'a.b=c', '1=2'] };
      registry.push('1', makeImage([{ tar: base }], odd));
      const { environment } = await resolve(registry.name('1'), true, log);
      expect(environment.env).toEqual({ A: 'b' });
      expect(warned).toEqual([expect.stringContaining('left out')]);
    });

    it('a daemon reads no layout of its machine, but finds images pulled from it', async () => {
      writeLayout(join(dir, 'layout'), image());
      const name = `oci:${join(dir, 'layout')}:latest`;
      await expect(resolve(name, false)).rejects.toMatchObject({
        code: 'not_found',
        remedy: expect.stringContaining(`neurovisor image pull ${name}`),
      });
      expect(builder.layers).toEqual([]);
      await pull(open(), name);
      expect((await resolve(name, false)).environment.image).toBe(name);
    });

    it('a digest finds a local image without asking a registry', async () => {
      const made = image();
      registry.push('1', made);
      await pull(open(), registry.name('1'));
      const asked = registry.asked.length;
      const { environment } = await resolve(made.manifestDigest, false);
      expect(environment.image).toBe(made.manifestDigest);
      const unknown = `sha256:${'0'.repeat(64)}`;
      for (const when of ['always', 'missing'] as const) {
        await expect(pull(open(), unknown, when)).rejects.toMatchObject({
          code: 'image_not_found',
          remedy: expect.any(String),
        });
      }
      for (const name of ['environments', 'layers', 'blobs']) {
        rmSync(join(dir, 'cache/oci', name), { recursive: true });
      }
      await expect(pull(open(), made.manifestDigest)).rejects.toMatchObject({ code: 'disk_full' });
      expect(registry.asked.length).toBe(asked);
    });

    it.each([
      ['none', 'not_found'],
      ['No/Image', 'spec_invalid'],
      ['', 'spec_invalid'],
      ['a\u0000b', 'spec_invalid'],
      ['oci:a:b:c', 'spec_invalid'],
    ])('an unknown image, and an invalid reference (%j): %s with a remedy', async (name, code) => {
      const image = name === 'none' ? registry.name(name) : name;
      await expect(resolve(image)).rejects.toMatchObject({ code, remedy: expect.any(String) });
    });
  });
});
