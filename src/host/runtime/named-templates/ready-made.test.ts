import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { READY_MADE, readyMadeDir, readyMadeRecipe } from '../../../artifacts/ready-made.ts';
import { linkOrCopy } from '../../../sys/link-or-copy.ts';
import { TemplateNames } from './names.ts';
import { readyMadeTemplate } from './ready-made.ts';

describe('ready-made environments', () => {
  let home: string;
  let names: TemplateNames;
  let builds = 0;

  beforeEach(() => {
    home = mkdtempSync(join(tmpdir(), 'nv-ready-made-'));
    names = new TemplateNames(home);
    builds = 0;
    writeFileSync(join(home, 'disk'), 'erofs');
  });
  afterEach(() => {
    rmSync(home, { recursive: true });
  });

  const open = (systemDigest: string, name = 'base') =>
    readyMadeTemplate(name, {
      systemDigest,
      names,
      keep: (name, spec, path, recipe) => names.setReadyMade(name, spec, (to) => linkOrCopy(path, to), recipe),
      build: async () => {
        builds += 1;
        const digest = `sha256:${String(builds).repeat(64)}`;
        const config = { user: 'user', workdir: '/home/user', env: {}, entrypoint: [], cmd: [] };
        const names = { image: 'base', imageDigest: digest, digest };
        const environment = { ...config, ...names, exposedPorts: [], stopSignal: null };
        return { environment, path: join(home, 'disk') };
      },
    });

  it('the first use builds it; later uses find it with a file of its own', async () => {
    const first = await open('a');
    rmSync(join(home, 'disk'));
    const second = await open('a');
    expect(builds).toBe(1);
    expect(second).toEqual(first);
    expect(second.spec).toMatchObject({ memoryMib: 1024, environment: { image: 'base' } });
    expect(readFileSync(second.image?.path ?? '', 'utf8')).toBe('erofs');
    expect((await names.list()).map(({ name }) => name)).toEqual(['agent', 'base']);
  });

  it.each([
    ['another system image', async () => undefined, 'b'],
    ['a damaged definition', async () => writeFileSync(join(home, 'templates/base.json'), '{'), 'a'],
    ['its removal', () => names.remove('base'), 'a'],
  ])('%s: the next use rebuilds it', async (_what, change, digest) => {
    await open('a');
    await change();
    const again = await open(digest);
    expect(builds).toBe(2);
    expect(readdirSync(join(home, 'templates/environments'))).toEqual(['2'.repeat(64)]);
    expect(again.spec.environment?.digest).toBe(`sha256:${'2'.repeat(64)}`);
  });

  it('a ready-made name can not be set', async () => {
    await expect(names.set('base', (await open('a')).spec)).rejects.toThrow('reserved');
    await expect(names.remove('agent')).rejects.toThrow('reserved');
  });

  it('each clone of code-interpreter starts with its server', async () => {
    expect((await open('a', 'code-interpreter')).spec.start).toMatchObject({
      command: 'exec python3 -m code_interpreter',
      ready: expect.stringContaining('49999/health'),
    });
    expect((await open('a')).spec).not.toHaveProperty('start');
    expect((await names.list()).find(({ name }) => name === 'code-interpreter')?.spec.start).toBeDefined();
  });

  it('each builds on its base, which is in its recipe', async () => {
    for (const [name, { from }] of READY_MADE) {
      const text = readFileSync(join(readyMadeDir(name), 'Dockerfile'), 'utf8');
      expect(/^FROM (\S+)$/m.exec(text)?.[1]).toBe(from ?? 'agent');
      expect(await readyMadeRecipe(name, 'a')).not.toBe(await readyMadeRecipe(name, 'b'));
    }
  });
});
