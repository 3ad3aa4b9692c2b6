/** The templates of a machine: kept, named, listed and removed; built with the fake driver. */
import { readdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { copyFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { silentLog } from '../../src/base/log.ts';
import type { ProgressEvent } from '../../src/base/progress.ts';
import { removeNamed } from '../../src/host/runtime/named-templates/listing.ts';
import { TemplateNames } from '../../src/host/runtime/named-templates/names.ts';
import type { CloneRam } from '../../src/host/runtime/ram/parts.ts';
import { SealedRam } from '../../src/host/runtime/ram/sealed-ram.ts';
import { SharedRam } from '../../src/host/runtime/ram/shared-ram.ts';
import type { Artifacts } from '../../src/host/runtime/setup.ts';
import { Templates } from '../../src/host/runtime/templates.ts';
import type { TemplateSpec } from '../../src/sandbox/contract/spec.ts';

import { events, IMPORTED, parts, useTemplateWorld, world } from '../support/template-world.ts';

useTemplateWorld();
describe('Templates', () => {
  const spec = { cpus: 1, memoryMib: 128, diskMib: 16, warm: ['json'] };

  /** Index of the host's packages. */
  let index = 'a';

  function open(mapsMemory: boolean, ram?: CloneRam) {
    const given = parts(null, events(IMPORTED));
    const { driver } = given;
    const capabilities = { ...driver.capabilities, mapsMemory };
    const shared = ram ?? new SharedRam(join(world.root, 'run'));
    const context = { cacheDir: join(world.root, 'cache'), sourceDir: world.root, progress: () => {}, log: silentLog };
    const names = new TemplateNames(world.root);
    const artifacts = { kernelDigest: 'k', rootImageDigest: 'r' } as Artifacts;
    const templates = new Templates(
      { ...context, signal: new AbortController().signal },
      artifacts,
      {
        ...given,
        driver: { ...driver, capabilities },
        ram: {
          copy: (file) => {
            world.steps.push('share');
            return shared.copy(file);
          },
        },
        packageIndex: async () => index,
      },
      names,
    );
    return { templates, shared, names };
  }
  const shares = (): number => world.steps.filter((step) => step === 'share').length;

  it('prepare: one RAM file for all clones of a process, which the cache does not share', async () => {
    const { templates, shared } = open(true);
    const [one, two] = await Promise.all([templates.prepare(spec), templates.prepare(spec)]);
    expect(two).toBe(one);
    expect(await templates.prepare(spec)).toBe(one);
    expect(shares()).toBe(1);
    const cached = join(world.root, 'cache/template', one.key, 'ram');
    const before = statSync(cached, { bigint: true });
    const mapped = await one.source.mapMemory?.('us');
    if (mapped === undefined) throw new Error('it is not mapped');
    expect(statSync(mapped.path).size).toBe(128 * 2 ** 20);
    expect(statSync(mapped.path, { bigint: true }).ino).not.toBe(before.ino);
    // A change of this time would cause the cache to be verified again.
    expect(statSync(cached, { bigint: true }).ctimeNs).toBe(before.ctimeNs);
    await mapped.close();
    await shared.close();
    expect(readdirSync(join(world.root, 'run'))).toEqual([]);
  });

  it('prepare: a caller that leaves takes nothing from another; after the last nothing is left', async () => {
    const { templates, shared } = open(false);
    /** Leaves when the build has begun. */
    const leaving = () => {
      const aborter = new AbortController();
      const progress = ({ kind }: ProgressEvent): void => {
        if (kind === 'start') aborter.abort(new Error('left'));
      };
      return { progress, signal: aborter.signal };
    };
    const left = templates.prepare(spec, undefined, leaving());
    const stayed = templates.prepare(spec);
    await expect(left).rejects.toThrow('left');
    expect(await templates.has((await stayed).spec)).toBe(true);
    const other = { ...spec, warm: [] };
    await expect(templates.prepare(other, undefined, leaving())).rejects.toMatchObject({ code: 'cancelled' });
    expect(await templates.has(other)).toBe(false);
    expect(readdirSync(join(world.root, 'cache/tmp'))).toEqual([]);
    await shared.close();
  });

  /** Names of the RAM files of this process. */
  const ramFiles = (): string[] =>
    readdirSync(join(world.root, 'run'), { recursive: true, encoding: 'utf8' })
      .map((path) => basename(path))
      .filter((name) => name.startsWith('ram-'));

  it('prepare: a template keeps the file of its image', async () => {
    const { templates, shared } = open(false);
    const path = join(world.root, 'some image');
    writeFileSync(path, 'the disk');
    const environment = {
      image: 'app:1',
      imageDigest: 'sha256:1',
      digest: 'sha256:2',
      user: '',
      workdir: '/',
      env: {},
      entrypoint: ['/app'],
      cmd: [],
      exposedPorts: [],
      stopSignal: null,
    };
    const with_ = { ...spec, warm: [], environment };
    const made = await templates.prepare(with_, { environment, path });
    rmSync(path);
    const copy = join(world.root, 'copy');
    await made.source.linkEnvironment?.(copy);
    expect(readFileSync(copy, 'utf8')).toBe('the disk');
    const [, info] = await templates.list();
    expect(info).toMatchObject({ key: made.key, current: true, spec: { environment } });
    expect(await templates.prepare(with_)).toBe(made);
    await shared.close();
  });

  it('prepare: an image that was removed meanwhile is named, and nothing is left behind', async () => {
    const { templates, shared } = open(false);
    const config = { user: '', workdir: '/', env: {}, entrypoint: [], cmd: [], exposedPorts: [] };
    const names = { image: 'app:1', imageDigest: 'sha256:1', digest: 'sha256:2' };
    const environment = { ...names, ...config, stopSignal: null };
    const path = join(world.root, 'none');
    const preparing = templates.prepare({ ...spec, warm: [], environment }, { environment, path });
    await expect(preparing).rejects.toMatchObject({
      code: 'image_failed',
      message: "the image app:1 can't be used",
      cause: 'it was removed meanwhile',
      remedy: 'try again',
    });
    expect((await templates.list()).filter(({ key }) => key !== null)).toEqual([]);
    await shared.close();
  });

  it('prepare: the RAM file of a removed template is removed once no clone uses it', async () => {
    const { templates, shared } = open(true);
    const old = await templates.prepare(spec);
    const mapped = await old.source.mapMemory?.('us');
    await templates.remove(old.key);
    await templates.prepare({ ...spec, diskMib: 32 });
    expect(ramFiles()).toEqual(['ram-1', 'ram-2']);
    // A further copy would never be removed.
    for (const sharers of ['us', 'them'])
      await expect(old.source.mapMemory?.(sharers)).rejects.toThrow('the RAM was dropped');
    expect(ramFiles()).toEqual(['ram-1', 'ram-2']);
    await mapped?.close();
    await mapped?.close();
    expect(ramFiles()).toEqual(['ram-2']);
    await shared.close();
  });

  it('prepare: a rebuilt template has one RAM file, and one that was only touched the same', async () => {
    const { templates, shared } = open(true);
    const one = await templates.prepare(spec);
    const now = new Date();
    utimesSync(join(world.root, 'cache/template', one.key, 'ram'), now, now);
    expect(await templates.prepare(spec)).toBe(one);
    expect(ramFiles()).toEqual(['ram-1']);
    writeFileSync(join(world.root, 'cache/template', one.key, 'state'), 'altered');
    expect(await templates.prepare(spec)).not.toBe(one);
    expect(ramFiles()).toHaveLength(1);
    await shared.close();
  });

  it('prepare: reports the memory that the first clone of each group of sharers brings', async () => {
    const ram = new SealedRam();
    const { templates } = open(true, ram);
    const { source } = await templates.prepare(spec);
    const missing = (sharers: string): number => source.sharedNeed?.(sharers)?.missingMib() ?? -1;
    expect(missing('us')).toBeGreaterThan(0);
    const mapped = await source.mapMemory?.('us');
    expect(missing('us')).toBe(0);
    expect(missing('them')).toBeGreaterThan(0);
    await mapped?.close();
    await ram.close();
  });

  it('prepare: with another VMM, RAM is copied', async () => {
    const { templates } = open(false);
    expect((await templates.prepare(spec)).source).not.toHaveProperty('mapMemory');
    expect(shares()).toBe(0);
  });

  it('prepare: a named template is kept however many others are built, until its name is removed', async () => {
    const { templates, names } = open(false);
    const named = await templates.prepare(spec);
    await names.set('data', { ...named.spec, card: true });
    for (let n = 0; n < 9; n += 1) await templates.prepare({ ...spec, diskMib: 32 + n });
    expect(await templates.has(spec)).toBe(true);
    expect(await templates.has({ ...spec, diskMib: 32 })).toBe(true);
    await templates.prepare({ ...spec, diskMib: 64 });
    expect(await templates.has({ ...spec, diskMib: 32 })).toBe(false);
    await names.remove('data');
    await templates.prepare({ ...spec, diskMib: 65 });
    expect(await templates.has(spec)).toBe(false);
  });

  it('list: named templates first, `agent` and those not built included', async () => {
    const { templates, names } = open(false);
    const { key } = await templates.prepare(spec);
    await templates.prepare({ ...spec, diskMib: 32 });
    await names.set('data', spec);
    await names.set('web', { ...spec, cpus: 2 });
    expect(await templates.list()).toMatchObject([
      { names: ['agent'], key: null, current: false, madeAtMs: null, files: {} },
      { names: ['data'], key, current: true },
      { names: ['web'], key: null, spec: { cpus: 2 } },
      { names: [], spec: { diskMib: 32 } },
    ]);
  });

  it('removeNamed: removes the files too, unless they have another name', async () => {
    const { templates, names } = open(false);
    const context = {
      cacheDir: join(world.root, 'cache'),
      progress: () => {},
      signal: new AbortController().signal,
      log: silentLog,
    };
    const { key } = await templates.prepare(spec);
    await names.set('data', spec);
    await names.set('same', spec);
    expect(await removeNamed(context, names, 'data')).toEqual([]);
    expect(await templates.has(spec)).toBe(true);
    expect(await removeNamed(context, names, 'same')).toEqual([key]);
    expect(await templates.has(spec)).toBe(false);
    await expect(removeNamed(context, names, 'same')).rejects.toMatchObject({ code: 'not_found' });
  });

  const environment = {
    image: 'app:1',
    imageDigest: `sha256:${'1'.repeat(64)}`,
    digest: `sha256:${'2'.repeat(64)}`,
    user: '',
    env: {},
    workdir: '/',
    entrypoint: [],
    cmd: [],
    exposedPorts: [],
    stopSignal: null,
  };
  const start = { command: 'serve', ready: 'probe', readyTimeoutMs: 5_000 };
  it.each<[string, Partial<TemplateSpec>, Partial<TemplateSpec>]>([
    [
      'another name of the same image',
      { environment },
      { environment: { ...environment, image: 'app:latest', imageDigest: 'sha256:9', cmd: ['x'] } },
    ],
    ['another time limit', { start }, { start: { ...start, readyTimeoutMs: 1_000 } }],
  ])('names that differ in %s share the files', async (_what, one, other) => {
    const { templates, names } = open(false);
    const context = {
      cacheDir: join(world.root, 'cache'),
      progress: () => {},
      signal: new AbortController().signal,
      log: silentLog,
    };
    const path = join(world.root, 'app.erofs');
    writeFileSync(path, 'disk');
    const link = (to: string) => copyFile(path, to);
    const image = one.environment === undefined ? undefined : { environment: one.environment, path };
    const { key } = await templates.prepare({ ...spec, ...one }, image);
    await names.set('one', { ...spec, ...one }, link);
    await names.set('other', { ...spec, ...other }, link);
    expect((await templates.list()).slice(1)).toMatchObject([{ names: ['one', 'other'], key, current: true }]);
    expect(await removeNamed(context, names, 'one')).toEqual([]);
    expect(await templates.has({ ...spec, ...other })).toBe(true);
    expect(await removeNamed(context, names, 'other')).toEqual([key]);
  });

  it('prepare: a template with a card is another one', async () => {
    const { templates } = open(false);
    await templates.prepare(spec);
    expect(await templates.has({ ...spec, card: true })).toBe(false);
    expect(await templates.list()).toMatchObject([{ names: ['agent'] }, { spec, current: true }]);
  });

  it('a template with packages depends on the index and the minimum age of their installation', async () => {
    const { templates } = open(false);
    const installed = { ...spec, requirements: ['pandas'], packagesMinAgeMs: 1_000 };
    await templates.prepare(spec);
    const made = await templates.prepare(installed);
    expect(world.steps).toContain('gateway pip older than 1000');
    expect(await templates.has(installed)).toBe(true);
    expect(await templates.has({ ...installed, packagesMinAgeMs: 2_000 })).toBe(false);
    index = 'b';
    expect(await templates.has(installed)).toBe(false);
    expect(await templates.has(spec)).toBe(true);
    const listed = (await templates.list()).find(({ key }) => key === made.key);
    expect(listed).toMatchObject({ current: false, spec: { packagesMinAgeMs: 1_000 } });
    index = 'a';
    expect(await templates.prepare(installed)).toBe(made);
  });
});
