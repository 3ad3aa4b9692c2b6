/** The package that `npm pack` makes, as a project installs it: compiled, typed, with all files it reads. */
import { execFile } from 'node:child_process';
import { existsSync, globSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ROOT } from '../support/cli.ts';
import { type FakeDaemon, startFakeDaemon } from '../support/fake-daemon.ts';

const run = promisify(execFile);
const modules = join(ROOT, 'node_modules');
const tsc = join(modules, 'typescript/bin/tsc');

let dir: string;
let app: string;
let installed: string;
let daemon: FakeDaemon;

/** Files of this checkout, from the root; uncommitted new ones only of some folders. */
async function filesOf(...folders: readonly string[]): Promise<string[]> {
  const args = ['ls-files', ...(folders.length === 0 ? [] : ['-co', '--exclude-standard'])];
  const { stdout } = await run('git', [...args, '--', ...folders], { cwd: ROOT });
  return stdout.split('\n').filter((path) => path !== '' && existsSync(join(ROOT, path)));
}

/** The program of a page that imports the library. */
async function sampleOf(page: string): Promise<string> {
  const blocks = (await readFile(join(ROOT, page), 'utf8')).matchAll(/^```ts\n(.*?)^```/gms);
  const [sample] = [...blocks].map((match) => match[1] ?? '').filter((code) => /^import/.test(code));
  return sample ?? expect.fail(`no sample in ${page}`);
}

const typeErrors = async (code: string): Promise<string> => {
  await writeFile(join(app, 'agent.ts'), code);
  const compiled = run(process.execPath, [tsc, '-p', app]);
  return await compiled.then(
    () => '',
    ({ stdout }: { stdout: string }) => stdout,
  );
};

// Packs a copy: the compiled files of this checkout may be in use.
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nv-package-'));
  const clone = join(dir, 'clone');
  for (const path of new Set([...(await filesOf()), ...(await filesOf('src', 'prove', 'bench', 'tools'))])) {
    await mkdir(dirname(join(clone, path)), { recursive: true });
    await cp(join(ROOT, path), join(clone, path));
  }
  await symlink(modules, join(clone, 'node_modules'));
  const env = { ...process.env, npm_config_cache: join(dir, 'npm'), npm_config_offline: 'true' };
  await run('npm', ['pack', '--pack-destination', dir], { cwd: clone, env });
  app = join(dir, 'app');
  installed = join(app, 'node_modules/neurovisor');
  await mkdir(installed, { recursive: true });
  const [tarball = ''] = globSync('*.tgz', { cwd: dir });
  await run('tar', ['-xzf', join(dir, tarball), '-C', installed, '--strip-components=1']);
  // Replaces what npm would fetch.
  await symlink(modules, join(installed, 'node_modules'));
  await symlink(join(modules, '@types'), join(app, 'node_modules/@types'));
  await writeFile(join(app, 'package.json'), JSON.stringify({ type: 'module' }));
  const compilerOptions = {
    module: 'nodenext',
    target: 'es2024',
    lib: ['es2024', 'esnext.disposable'],
    strict: true,
    skipLibCheck: true,
    noEmit: true,
    types: ['node'],
  };
  await writeFile(join(app, 'tsconfig.json'), JSON.stringify({ compilerOptions }));
  daemon = await startFakeDaemon();
});

afterAll(async () => {
  await daemon?.[Symbol.asyncDispose]();
  await rm(dir, { recursive: true, force: true });
});

describe('npm package', () => {
  it('types: the sample of the README compiles, a wrong use of it does not', async () => {
    const sample = await sampleOf('README.md');
    expect(await typeErrors(sample)).toBe('');
    const wrong = sample.replace('memoryMib: 512', "memoryMib: '512'");
    expect(await typeErrors(wrong)).toContain("'string' is not assignable to type 'number'");
  });

  it('library: a TypeScript program runs with it and ends by itself', async () => {
    const code = `import { CodedError, Sandbox } from 'neurovisor';
      await using sandbox = await Sandbox.create();
      console.log((await sandbox.runCode('print(6 * 7)')).stdout);
      console.log(await Sandbox.connect('nobody').catch((error) => error instanceof CodedError));`;
    await writeFile(join(app, 'run.ts'), code);
    const env = { ...process.env, ...daemon.env };
    const { stdout } = await run(process.execPath, [join(app, 'run.ts')], { env });
    expect(stdout).toBe('42\n\ntrue\n');
  });

  it('command: runs without its sources; `test` refers to the repository', async () => {
    const env = { ...process.env, NEUROVISOR_HOME: join(dir, 'home') };
    const command = join(installed, 'neurovisor');
    const { version } = JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8')) as { version: string };
    expect((await run(command, ['--version'], { env })).stdout).toBe(`${version}\n`);
    const test = run(command, ['test'], { env });
    await expect(test).rejects.toMatchObject({ code: 2, stderr: /npm package has no test/ });
  });

  it('files: everything it starts or reads is included', async () => {
    const read = await filesOf(
      ...['bpf', 'guest/agent', 'guest/builder', 'guest/init.c', 'guest/prebuilt', 'image', 'kernel', 'policy'],
    );
    const beside = (await filesOf('src', 'prove', 'bench')).filter((path) => !path.endsWith('.ts'));
    const expected = [...read, ...beside.map((path) => join('dist', path))];
    expect(expected.filter((path) => !existsSync(join(installed, path)))).toEqual([]);

    const named: string[] = [];
    const started: string[] = [];
    for (const path of globSync('dist/**/*.js', { cwd: installed })) {
      const text = await readFile(join(installed, path), 'utf8');
      for (const [, name = ''] of text.matchAll(/(?:modulePath|new Actor)\('\.\/(.+?)\.ts'/g)) {
        started.push(join(dirname(path), `${name}.js`));
      }
      const paths = text.matchAll(/join\(import\.meta\.dirname, '(.+?)'|new URL\('(.+?)', import\.meta\.url\)/g);
      for (const [, joined, url] of paths) named.push(join(dirname(path), joined ?? url ?? ''));
      for (const [, name = ''] of text.matchAll(/join\(PACKAGE_DIR, '(.+?)'/g)) named.push(name);
      // A module named in any other way would be looked up as TypeScript.
      expect(text.replace(/(?:modulePath|new Actor)\('.*?'/g, ''), path).not.toMatch(
        /new URL\('[^']*\.ts'|dirname, '[^']*\.ts'|meta\.filename\)/,
      );
    }
    expect(started).toContain('dist/src/machine/vsock/worker.js');
    expect(named).toContain('policy');
    expect(named.filter((path) => !existsSync(join(installed, path)))).toEqual([]);
    expect(started.filter((path) => !existsSync(join(installed, path)))).toEqual([]);
  });
});
