import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DEFAULT_TEMPLATE } from '../../../sandbox/start/template.ts';
import { TemplateNames } from './names.ts';

const spec = { cpus: 2, memoryMib: 1024, diskMib: 2048, warm: ['json'], requirements: ['pandas'] };

describe('TemplateNames', () => {
  let home = '';
  let names: TemplateNames;
  beforeEach(() => {
    home = mkdtempSync(join(tmpdir(), 'nv-names-'));
    names = new TemplateNames(home);
  });
  afterEach(() => rmSync(home, { recursive: true }));

  it('keeps the template’s spec, without the network card', async () => {
    await names.set('data', { ...spec, card: true });
    expect(await names.get('data')).toMatchObject({ name: 'data', spec });
    expect((await names.get('data')).spec).not.toHaveProperty('card');
  });

  it('set: the last of several concurrent writers wins, and no temporary file is left', async () => {
    const sizes = Array.from({ length: 20 }, (_, n) => 128 + n);
    await Promise.all(sizes.map((memoryMib) => names.set('data', { ...spec, memoryMib })));
    expect(sizes).toContain((await names.get('data')).spec.memoryMib);
    expect(readdirSync(join(home, 'templates'))).toEqual(['data.json', 'environments']);
  });

  it('keeps an image’s file while a name has it', async () => {
    const digest = `sha256:${'a'.repeat(64)}`;
    const config = { user: '', env: {}, workdir: '', entrypoint: [], cmd: [], exposedPorts: [] };
    const environment = { image: 'x:1', imageDigest: digest, digest, ...config, stopSignal: null };
    const link = (path: string) => writeFile(path, 'disk', { flag: 'wx' });
    for (const name of ['one', 'two', 'one']) await names.set(name, { ...spec, environment }, link);
    const { image } = await names.get('one');
    expect(image).toMatchObject({ environment, path: expect.stringMatching(/\/a{64}$/) });
    const files = (): string[] => readdirSync(join(home, 'templates/environments'));
    await names.set('one', spec);
    expect(files()).toEqual(['a'.repeat(64)]);
    await names.remove('two');
    expect(files()).toEqual([]);
  });

  it('keeps the image files of names that it can not read', async () => {
    const digest = `sha256:${'a'.repeat(64)}`;
    const config = { user: '', env: {}, workdir: '', entrypoint: [], cmd: [], exposedPorts: [] };
    const environment = { image: 'x:1', imageDigest: digest, digest, ...config, stopSignal: null };
    await names.set('one', { ...spec, environment }, (path) => writeFile(path, 'disk'));
    const path = join(home, 'templates/one.json');
    const text = readFileSync(path, 'utf8');
    // A file of a later version; or too many files are open.
    writeFileSync(path, text.replace('"format": 1', '"format": 2'));
    await names.set('two', spec);
    writeFileSync(path, text);
    expect(readFileSync((await names.get('one')).image?.path ?? '', 'utf8')).toBe('disk');
    writeFileSync(path, 'damaged');
    await names.remove('one');
    expect(readdirSync(join(home, 'templates/environments'))).toEqual([]);
  });

  it('`agent` always exists, comes first, and can not be set or removed', async () => {
    expect(await names.list()).toEqual([{ name: 'agent', spec: DEFAULT_TEMPLATE, madeAtMs: 0 }]);
    expect(await names.get('agent')).toMatchObject({ spec: DEFAULT_TEMPLATE });
    await names.set('aa', spec);
    expect((await names.list()).map(({ name }) => name)).toEqual(['agent', 'aa']);
    for (const change of [names.set('agent', spec), names.remove('agent')]) {
      await expect(change).rejects.toMatchObject({ code: 'spec_invalid' });
    }
  });

  it('suggests similar names for an unknown name', async () => {
    await names.set('data', spec);
    await expect(names.get('dta')).rejects.toMatchObject({
      code: 'not_found',
      message: 'there is no template "dta"',
      remedy: 'did you mean data? list templates with: neurovisor template ls',
    });
    await expect(names.remove('dta')).rejects.toMatchObject({ code: 'not_found' });
  });

  it('never suggests a template built by an E2B client, since it may be another tenant’s', async () => {
    const built = 'e2b-5b0f8e52-5f7a-4d0e-9d0b-0d7f7b7a4c11';
    await names.set(built, spec);
    for (const near of ['e2b', 'e2b-5b0f8e52', built.slice(0, -1)]) {
      const remedy = 'list templates with: neurovisor template ls';
      await expect(names.get(near)).rejects.toMatchObject({ code: 'not_found', remedy });
    }
    expect(await names.has(built)).toBe(true);
  });

  it.each(['', '.', '..', '../x', 'a/b', 'A', '-a', 'a'.repeat(64), 'a\n'])('refuses the name %j', async (name) => {
    for (const work of [names.get(name), names.set(name, spec), names.remove(name)]) {
      await expect(work).rejects.toMatchObject({ code: 'spec_invalid' });
    }
    expect(readdirSync(home)).toEqual([]);
  });

  it('reports a damaged definition on use, lists the others, and removes it', async () => {
    await names.set('data', spec);
    writeFileSync(join(home, 'templates', 'bad.json'), '{"format":1,"spec":{}}');
    writeFileSync(join(home, 'templates', 'Not a name.json'), '');
    expect((await names.list()).map(({ name }) => name)).toEqual(['agent', 'data']);
    await expect(names.get('bad')).rejects.toMatchObject({ code: 'template_failed' });
    await names.remove('bad');
    await expect(names.get('bad')).rejects.toMatchObject({ code: 'not_found' });
  });
});
