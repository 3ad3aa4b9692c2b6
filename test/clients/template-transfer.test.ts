/** Named templates between hosts: as OCI layouts, which may be hostile, and by a registry. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { zstdCompressSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { silentLog } from '../../src/base/log.ts';
import { silentProgress } from '../../src/base/progress.ts';
import { readTemplate, writeTemplate } from '../../src/host/runtime/named-templates/layout.ts';
import { TemplateNames } from '../../src/host/runtime/named-templates/names.ts';
import { importTemplate, pullTemplate, pushTemplate } from '../../src/host/runtime/named-templates/transfer.ts';
import { freePort } from '../support/free-port.ts';
import { digest, makeImage, tar, writeLayout } from '../support/oci-images.ts';
import { requires } from '../support/requires.ts';

const { signal } = new AbortController();
const disk = Buffer.concat([randomBytes(100_000), Buffer.alloc(1_000_000)]);
const image = {
  image: 'app:1',
  imageDigest: digest(Buffer.from('manifest')),
  digest: digest(disk),
  user: 'app',
  env: { PATH: '/bin' },
  workdir: '/srv',
  entrypoint: ['/app'],
  cmd: [],
  exposedPorts: ['80/tcp'],
  stopSignal: null,
};
const start = { command: 'serve', ready: 'probe', readyTimeoutMs: 60_000 };
const plain = { cpus: 1, memoryMib: 256, diskMib: 1024, warm: ['json'], requirements: ['pandas==2.2.3'], start };
const spec = { ...plain, environment: image };

let dir: string;
let names: TemplateNames;
let others: TemplateNames;
beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'nv-transfer-'));
  names = new TemplateNames(join(dir, 'here'));
  others = new TemplateNames(join(dir, 'there'));
  await names.set('data', plain);
  await names.set('app', spec, (path) => writeFile(path, disk));
});
afterEach(() => rmSync(dir, { recursive: true }));

const context = () => ({
  cacheDir: join(dir, 'cache'),
  sourceDir: dir,
  progress: silentProgress,
  signal,
  log: silentLog,
});
const layout = () => join(dir, 'layout');
const blobsOf = (at = layout()) => join(at, 'blobs/sha256');
const disksThere = () => {
  const path = join(dir, 'there/templates/environments');
  return existsSync(path) ? readdirSync(path) : [];
};

describe('export and import', () => {
  it('a template arrives with its image, under its name or another', async () => {
    await writeTemplate(await names.get('app'), layout(), signal);
    const { image: arrived } = await importTemplate(context(), others, layout());
    expect((await others.get('app')).spec).toEqual(spec);
    expect(readFileSync(arrived?.path ?? '')).toEqual(disk);
    // A VMM in its jail may be another user.
    expect(statSync(arrived?.path ?? '').mode & 0o777).toBe(0o644);
    await importTemplate(context(), others, layout(), 'other');
    expect((await others.list()).map(({ name }) => name)).toEqual(['agent', 'app', 'other']);
    expect(disksThere()).toEqual([image.digest.slice(7)]);
  });

  it('a template without an image is two documents, and not that of a machine', async () => {
    await writeTemplate(await names.get('data'), layout(), signal);
    expect(readdirSync(blobsOf())).toHaveLength(2);
    await importTemplate(context(), others, layout());
    expect((await others.get('data')).spec).toEqual(plain);
  });

  it('a name that is taken, and one that is reserved, stay what they are', async () => {
    await writeTemplate(await names.get('data'), layout(), signal);
    const before = await names.get('app');
    await expect(importTemplate(context(), names, layout(), 'app')).rejects.toMatchObject({
      code: 'name_taken',
      remedy: expect.stringContaining('-t NAME'),
    });
    expect(await names.get('app')).toEqual(before);
    await expect(importTemplate(context(), names, layout(), 'agent')).rejects.toMatchObject({ code: 'spec_invalid' });
  });

  it('writes into no directory with files, and leaves nothing of a failed export', async () => {
    mkdirSync(layout());
    writeFileSync(join(layout(), 'mine'), '');
    const exporting = writeTemplate(await names.get('data'), layout(), signal);
    await expect(exporting).rejects.toMatchObject({ code: 'name_taken' });
    expect(readdirSync(layout())).toEqual(['mine']);
    const { image: source } = await names.get('app');
    writeFileSync(source?.path ?? '', 'damaged');
    const damaged = writeTemplate(await names.get('app'), join(dir, 'new'), signal);
    await expect(damaged).rejects.toMatchObject({ code: 'template_failed' });
    expect(readdirSync(join(dir, 'new'))).toEqual([]);
  });
});

interface Changes {
  readonly config?: (config: Record<string, unknown>) => unknown;
  readonly manifest?: (manifest: Record<string, unknown>) => unknown;
  readonly disk?: Buffer;
}

/** Writes a layout whose digests are right and whose content is hostile. */
function hostile({ config = (same) => same, manifest = (same) => same, disk: other }: Changes): void {
  const blobs = blobsOf();
  mkdirSync(blobs, { recursive: true });
  const put = (mediaType: string, bytes: Buffer) => {
    writeFileSync(join(blobs, createHash('sha256').update(bytes).digest('hex')), bytes);
    return { mediaType, digest: digest(bytes), size: bytes.length };
  };
  const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
  const document = config({ format: 1, name: 'app', spec, diskBytes: disk.length });
  const top = manifest({
    schemaVersion: 2,
    config: put('application/vnd.neurovisor.template.config.v1+json', json(document)),
    layers: [put('application/vnd.neurovisor.environment.v1.erofs+zstd', other ?? zstdCompressSync(disk))],
  });
  const described = put('application/vnd.oci.image.manifest.v1+json', json(top));
  writeFileSync(join(layout(), 'index.json'), json({ manifests: [described] }));
}

const withSpec = (change: object): Changes => ({ config: (config) => ({ ...config, spec: { ...spec, ...change } }) });
const withImage = (change: object) => withSpec({ environment: { ...image, ...change } });

describe('a hostile layout', () => {
  it('is accepted without a change: the cases below fail for their change', async () => {
    hostile({});
    expect((await importTemplate(context(), others, layout())).spec).toEqual(spec);
  });

  it.each<[string, Changes]>([
    ['options of pip', withSpec({ requirements: ['--index-url=http://evil.example/'] })],
    ['more CPUs than there are', withSpec({ cpus: 1e6 })],
    ['a size that is no number', withSpec({ memoryMib: '1G' })],
    ['a module that is code', withSpec({ warm: ['os; import x'] })],
    ['a start command with a NUL', withSpec({ start: { ...start, command: 'a\0b' } })],
    ['a long start command', withSpec({ start: { ...start, ready: 'x'.repeat(20_000) } })],
    ['a minimum age that is none', withSpec({ packagesMinAgeMs: -1 })],
    ['a time limit of a year', withSpec({ start: { ...start, readyTimeoutMs: 3e10 } })],
    ['a digest that is a path', withImage({ digest: 'sha256:../../../../etc/passwd' })],
    ['a variable that is no name', withImage({ env: { 'A=B': 'c' } })],
    ['a variable with a NUL', withImage({ env: { A: 'b\0' } })],
    ['a user with a NUL', withImage({ user: 'a\0' })],
    ['a relative directory', withImage({ workdir: 'srv' })],
    ['a large environment', withImage({ workdir: 'x'.repeat(300_000) })],
    ['a name that is a path', { config: (config) => ({ ...config, name: '../x' }) }],
    ['another format', { config: (config) => ({ ...config, format: 2 }) }],
    ['a disk that is larger than it says', { config: (one) => ({ ...one, diskBytes: 1000 }) }],
    ['a disk that is smaller than it says', { config: (one) => ({ ...one, diskBytes: 2e6 }) }],
    ['a disk beyond the bound', { config: (one) => ({ ...one, diskBytes: 1e15 }) }],
    ['another disk', { disk: zstdCompressSync(Buffer.alloc(disk.length)) }],
    ['a disk that is not compressed', { disk }],
    ['a cut disk', { disk: zstdCompressSync(disk).subarray(0, 50_000) }],
    ['no disk', { manifest: (one) => ({ ...one, layers: [] }) }],
    [
      'a configuration of an image',
      {
        manifest: (one) => ({
          ...one,
          config: { ...(one['config'] as object), mediaType: 'application/vnd.oci.image.config.v1+json' },
        }),
      },
    ],
    [
      'a digest with a path',
      { manifest: (one) => ({ ...one, config: { ...(one['config'] as object), digest: 'sha256:../../index.json' } }) },
    ],
    ['a list instead of a manifest', { manifest: () => [] }],
  ])('with %s is refused, and nothing is left', async (_what, changes) => {
    hostile(changes);
    await expect(importTemplate(context(), others, layout())).rejects.toMatchObject({ code: 'spec_invalid' });
    expect((await others.list()).map(({ name }) => name)).toEqual(['agent']);
    expect(disksThere()).toEqual([]);
  });

  it('with another disk leaves the disk of a template that has the same image', async () => {
    await others.set('mine', spec, (path) => writeFile(path, disk));
    hostile({ disk: zstdCompressSync(Buffer.alloc(disk.length)) });
    await expect(importTemplate(context(), others, layout())).rejects.toMatchObject({ code: 'spec_invalid' });
    expect(readFileSync((await others.get('mine')).image?.path ?? '')).toEqual(disk);
    expect(disksThere()).toEqual([image.digest.slice(7)]);
  });

  it('with an altered document, or one that is no file, is refused', async () => {
    await writeTemplate(await names.get('data'), layout(), signal);
    for (const name of readdirSync(blobsOf())) {
      const path = join(blobsOf(), name);
      const before = readFileSync(path);
      writeFileSync(path, before.toString().replace('pandas', 'evil00').replace('2,', '2 ,'));
      await expect(readTemplate(layout(), 4)).rejects.toMatchObject({ code: 'spec_invalid' });
      rmSync(path);
      symlinkSync('/etc/passwd', path);
      await expect(readTemplate(layout(), 4)).rejects.toMatchObject({ code: 'spec_invalid' });
      rmSync(path);
      writeFileSync(path, before);
    }
    await expect(readTemplate(layout(), 4)).resolves.toMatchObject({ name: 'data' });
    writeFileSync(join(layout(), 'index.json'), ' '.repeat(5 * 2 ** 20));
    await expect(readTemplate(layout(), 4)).rejects.toMatchObject({ code: 'spec_invalid' });
  });

  it('that is an image, or nothing, is named as such', async () => {
    writeLayout(layout(), makeImage([{ tar: tar([]) }]));
    await expect(readTemplate(layout(), 4)).rejects.toMatchObject({
      cause: expect.stringContaining('container image'),
    });
    await expect(readTemplate(join(dir, 'none'), 4)).rejects.toMatchObject({ code: 'not_found' });
  });
});

const isThere = spawnSync('docker-registry', ['--help']).error === undefined;
requires('docker-registry', isThere || 'docker-registry is not installed').describe('push and pull', () => {
  let server: ChildProcess;
  let host: string;
  const home = process.env['HOME'];

  beforeEach(async () => {
    const port = await freePort();
    host = `127.0.0.1:${port}`;
    const config = join(dir, 'registry.yml');
    const storage = `storage: {filesystem: {rootdirectory: ${dir}/registry}}`;
    writeFileSync(config, `version: 0.1\n${storage}\nhttp: {addr: "${host}"}\n`);
    server = spawn('docker-registry', ['serve', config], { stdio: 'ignore' });
    await expect
      .poll(() =>
        fetch(`http://${host}/v2/`).then(
          ({ status }) => status,
          () => 0,
        ),
      )
      .toBe(200);
    process.env['HOME'] = dir;
    const settings = join(dir, '.config/containers');
    mkdirSync(settings, { recursive: true });
    const entry = `[[registry]]\nlocation = "${host}"\ninsecure = true\n`;
    writeFileSync(join(settings, 'registries.conf'), entry);
  });
  afterEach(() => {
    process.env['HOME'] = home;
    server.kill();
  });
  const temporary = () => readdirSync(join(dir, 'cache/oci/tmp'));

  it('a template arrives with its image; by tag and by digest', async () => {
    const reference = `${host}/team/app:1`;
    expect(await pushTemplate(context(), await names.get('app'), reference)).toBe(reference);
    const pulled = await pullTemplate(context(), others, reference);
    expect((await others.get('app')).spec).toEqual(spec);
    expect(readFileSync(pulled.image?.path ?? '')).toEqual(disk);
    const headers = { accept: 'application/vnd.oci.image.manifest.v1+json' };
    const stored = await fetch(`http://${host}/v2/team/app/manifests/1`, { headers });
    const bytes = Buffer.from(await stored.arrayBuffer());
    expect(JSON.parse(bytes.toString())).toMatchObject({ artifactType: 'application/vnd.neurovisor.template.v1' });
    await pullTemplate(context(), others, `${host}/team/app@${digest(bytes)}`, 'pinned');
    expect((await others.get('pinned')).spec).toEqual(spec);
    expect(temporary()).toEqual([]);
  });

  it('a template that cannot be used here is named as it was asked for', async () => {
    const reference = `${host}/team/large:1`;
    await names.set('large', { ...plain, cpus: 1e6 });
    await pushTemplate(context(), await names.get('large'), reference);
    await expect(pullTemplate(context(), others, reference)).rejects.toMatchObject({
      code: 'spec_invalid',
      message: `the template in ${reference} can't be used here`,
    });
  });

  it('an unknown tag, a taken name, and another host that is off have their errors', async () => {
    await pushTemplate(context(), await names.get('data'), `${host}/data:1`);
    const pulling = pullTemplate(context(), others, `${host}/data:2`);
    await expect(pulling).rejects.toMatchObject({ code: 'image_not_found' });
    const again = pullTemplate(context(), names, `${host}/data:1`);
    await expect(again).rejects.toMatchObject({ code: 'name_taken' });
    const off = `127.0.0.1:${await freePort()}/data:1`;
    await expect(pushTemplate(context(), await names.get('data'), off)).rejects.toMatchObject({
      code: 'registry_failed',
      message: `could not push ${off}`,
    });
    expect(temporary()).toEqual([]);
  });
});
