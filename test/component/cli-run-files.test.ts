/** `run` with a project of several files: imports, data files, working directory, and the hint for a missing file. */
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { cli } from '../support/cli.ts';
import { type FakeDaemon, startFakeDaemon } from '../support/fake-daemon.ts';

const MAIN = `
import sys
import helper
from lib.deep import value
print(helper.NAME, value, open("data/x.csv").read(), sys.path[0], __file__, sys.argv[1:])
`;

let dir: string;
let home: string;
let project: string;
let daemon: FakeDaemon;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nv-run-files-'));
  home = join(dir, 'home');
  daemon = await startFakeDaemon({ home });
});
beforeEach(async () => {
  await mkdir(home);
  project = await mkdtemp(join(dir, 'project-'));
  await mkdir(join(project, 'lib'));
  await mkdir(join(project, 'data'));
  await writeFile(join(project, 'main.py'), MAIN);
  await writeFile(join(project, 'helper.py'), 'NAME = "helped"\n');
  await writeFile(join(project, 'lib/__init__.py'), '');
  await writeFile(join(project, 'lib/deep.py'), 'value = 42\n');
  await writeFile(join(project, 'data/x.csv'), '1;2');
});
afterEach(() => rm(home, { recursive: true }));
afterAll(async () => {
  await daemon[Symbol.asyncDispose]();
  await rm(dir, { recursive: true });
});

const run = (args: readonly string[], options: { cwd?: string; input?: string } = {}) =>
  cli(['run', ...args], { env: daemon.env, cwd: project, ...options }).result;
const ran = (place: string, args = '[]') => ({
  status: 0,
  signal: null,
  stdout: `helped 42 1;2 ${place} ${place}/main.py ${args}\n`,
  stderr: '',
});

describe('run --copy', () => {
  it('puts modules, packages and data files beside the script', async () => {
    const copies = ['--copy', 'helper.py', '--copy', 'lib', '--copy', 'data'];
    expect(await run([...copies, 'main.py', '--', '-v'])).toEqual(ran(home, "['-v']"));
  });

  it('.: the script runs at its place in the project', async () => {
    expect(await run(['--copy', '.', 'main.py'])).toEqual(ran(home));
    await mkdir(join(project, 'src'));
    await symlink('../lib', join(project, 'src/lib'));
    for (const file of ['main.py', 'helper.py']) {
      await symlink(`../${file}`, join(project, 'src', file));
    }
    expect(await run(['--copy', '.', 'src/main.py'])).toEqual(ran(home));
  });

  it('src/main.py: imports from src, data relative to the working directory', async () => {
    await mkdir(join(project, 'src'));
    await writeFile(join(project, 'src/helper.py'), 'NAME = "from src"\n');
    const code = 'import helper; print(helper.NAME, open("data/x.csv").read(), __file__)';
    await writeFile(join(project, 'src/main.py'), code);
    const { stdout, stderr } = await run(['--copy', '.', 'src/main.py']);
    expect([stdout, stderr]).toEqual([`from src 1;2 ${home}/src/main.py\n`, '']);
  });

  it('.:TARGET: the script runs there, in that working directory', async () => {
    expect(await run(['--copy', '.:proj', 'main.py'])).toEqual(ran(join(home, 'proj')));
  });

  it('a script of the project run from elsewhere: imports work', async () => {
    const code = 'import helper, os; print(helper.NAME, os.getcwd())';
    await writeFile(join(project, 'main.py'), code);
    const name = project.slice(dir.length + 1);
    const { stdout } = await run(['--copy', project, join(project, 'main.py')], { cwd: '/' });
    expect(stdout).toBe(`helped ${home}\n`);
    expect(await run(['--copy', name, `${name}/main.py`], { cwd: dir })).toMatchObject({ stdout });
  });

  it('for -c and standard input: imports work, too', async () => {
    const code = 'import helper; print(helper.NAME)';
    const expected = { status: 0, stdout: 'helped\n', stderr: '' };
    expect(await run(['--copy', 'helper.py', '-c', code])).toMatchObject(expected);
    expect(await run(['--copy', 'helper.py', '-'], { input: code })).toMatchObject(expected);
  });

  it('DIR/.: copies the contents, as cp does; keeps links', async () => {
    await symlink('x.csv', join(project, 'data/link.csv'));
    const code = 'import os; print(sorted(os.listdir()), os.readlink("link.csv"))';
    const { stdout } = await run(['--copy', 'data/.', '-c', code]);
    expect(stdout).toBe("['link.csv', 'x.csv'] x.csv\n");
  });

  it('the script does not overwrite a copied file', async () => {
    await writeFile(join(project, 'lib/main.py'), 'other');
    const { status, stderr } = await run(['--copy', 'lib/.', 'main.py']);
    expect(status).toBe(2);
    expect(stderr).toContain('a copied file has the name of the script, main.py');
  });

  it('--workdir: sets the working directory', async () => {
    const code = 'import os; print(os.getcwd())';
    expect(await run(['--workdir', '/usr', '-c', code])).toMatchObject({ stdout: '/usr\n' });
  });
});

describe('run, hints', () => {
  it.each([
    [[], 'helper.py, which main.py needs,', 'helper.py'],
    [['--copy', 'helper.py'], 'lib, which main.py needs,', 'lib'],
    [['--copy', 'helper.py', '--copy', 'lib'], 'data, which main.py needs,', 'data'],
  ])('%j: names the missing file and the option', async (copies, what, add) => {
    const { status, stderr } = await run([...copies, 'main.py']);
    expect(status).toBe(1);
    const hint = `neurovisor: ${what} is on this machine but not in the guest; add: --copy ${add}\n`;
    expect(stderr.endsWith(hint)).toBe(true);
  });

  it('gives no hint for files that are missing here, or already there', async () => {
    await writeFile(join(project, 'main.py'), 'import nothing_like_this');
    expect((await run(['main.py'])).stderr).not.toContain('--copy');
    await writeFile(join(project, 'main.py'), 'raise ModuleNotFoundError("No module named \'helper\'")');
    expect((await run(['--copy', '.', 'main.py'])).stderr).not.toContain('--copy');
    // A script can print any name.
    for (const name of ['.ssh', 'a $(id)', '-e']) {
      await mkdir(join(project, name));
      const path = JSON.stringify(`${name}/key`);
      await writeFile(join(project, 'main.py'), `open(${path})`);
      expect((await run(['main.py'])).stderr).not.toContain('--copy');
    }
  });

  it('names the option for a package, and a requirements file beside the script', async () => {
    await writeFile(join(project, 'main.py'), 'import nothing_like_this');
    const lack = 'neurovisor: the sandbox has no Python module nothing_like_this; add:';
    const hint = async (...options: string[]) => (await run([...options, 'main.py'])).stderr.split('\n').at(-2);
    expect(await hint()).toBe(`${lack} --with nothing_like_this`);
    await writeFile(join(project, 'requirements.txt'), '');
    expect(await hint()).toBe(`${lack} --requirements requirements.txt, or --with nothing_like_this`);
    expect((await run(['-o', 'json', 'main.py'])).stdout).not.toContain('--with');
  });

  it('options after the script are its own, and an unknown one before it is an error', async () => {
    const { status, stderr } = await run(['--verbose', 'main.py']);
    expect(status).toBe(2);
    expect(stderr).toContain("unknown option '--verbose'");
  });
});
