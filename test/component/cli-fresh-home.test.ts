/** `neurovisor` with an empty home: commands that need no VM start no set-up. */
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { type CliResult, cli } from '../support/cli.ts';

let home: string;
beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'nv-fresh-'));
  // A set-up fails here at once, instead of building for minutes.
  await mkdir(join(home, 'cache'));
  await writeFile(join(home, 'cache/kernel'), '');
});
afterEach(() => rm(home, { recursive: true }));

const run = (...words: string[]): Promise<CliResult> => cli(words, { env: { NEUROVISOR_HOME: home } }).result;

const KEY = 'a'.repeat(64);

/** Leaves a template as a build with another kernel would. */
async function keepTemplate(): Promise<void> {
  const dir = join(home, 'cache/template', KEY);
  await mkdir(dir, { recursive: true });
  for (const name of ['ram', 'state', 'disk.ext4']) await writeFile(join(dir, name), name);
  const spec = { cpus: 1, memoryMib: 512, diskMib: 2048, warm: ['json'] };
  const digests = { stateSha256: 'b', kernelDigest: 'c', rootImageDigest: 'd' };
  const details = { spec, machine: 'm', ...digests, madeAtMs: 1, modules: [] };
  await writeFile(join(dir, 'manifest.json'), JSON.stringify({ details }));
}

it('template ls: lists the default template, which is not built yet', async () => {
  const { status, stdout } = await run('template', 'ls', '-o', 'json');
  expect(status).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject([{ names: ['agent'], key: null, current: false }]);
  expect((await run('template', 'ls')).stdout).toMatch(/^NAME[\s\S]*\nagent +- .* not built/);
});

it('template inspect, rm: remove a name together with its files; errors suggest similar names', async () => {
  await keepTemplate();
  const spec = { cpus: 1, memoryMib: 512, diskMib: 2048, warm: ['json'] };
  await mkdir(join(home, 'templates'));
  const file = JSON.stringify({ format: 1, spec, madeAtMs: 1 });
  for (const name of ['data', 'other']) {
    await writeFile(join(home, `templates/${name}.json`), name === 'data' ? file : '{');
  }
  expect((await run('template', 'inspect', 'data')).stdout).toMatch(/^name +data$/m);
  const wrong = await run('template', 'rm', 'dta');
  expect(wrong).toMatchObject({ status: 2 });
  expect(wrong.stderr).toContain('did you mean data?');
  expect((await run('template', 'rm', 'agent')).stderr).toContain('"agent" is reserved');
  expect(await readdir(join(home, 'cache/template'))).toEqual([KEY]);
  const removed = await run('template', 'rm', 'data', 'other', '-o', 'json');
  expect(JSON.parse(removed.stdout)).toEqual(['data', KEY, 'other']);
  expect(await readdir(join(home, 'templates'))).toEqual([]);
  expect(await readdir(join(home, 'cache/template'))).toEqual([]);
});

it('template create: a reserved or invalid name is refused before the set-up', async () => {
  for (const name of ['agent', 'Data', '../x']) {
    const { status, stderr } = await run('template', 'create', '-t', name);
    expect(stderr).toMatch(/template name/);
    expect(status).not.toBe(0);
    expect(stderr).not.toContain('kernel');
  }
  const ours = await run('template', 'create', '-t', 'base', '--memory', '2G');
  expect(ours).toMatchObject({ status: 2 });
  expect(ours.stderr).toContain('base is a ready-made environment: it takes no other options');
});

it('template ls, inspect, rm: work without set-up, and show no template as current', async () => {
  await keepTemplate();
  const list = await run('template', 'ls', '-o', 'json');
  expect(JSON.parse(list.stdout)).toMatchObject([{ names: ['agent'] }, { names: [], key: KEY, current: false }]);
  expect((await run('template', 'inspect', 'aaa')).stdout).toContain(KEY);
  expect((await run('template', 'inspect', 'b')).status).toBe(2);
  expect((await run('template', 'rm', 'aaa')).status).toBe(0);
  expect(await readdir(join(home, 'cache/template'))).toEqual([]);
});

it('bench: runs benchmarks that need no VM', async () => {
  const { status, stdout } = await run('bench', 'seccomp.compile', '--rounds', '1', '-o', 'json');
  expect(status).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject([{ name: 'seccomp.compile', n: 1 }]);
});
