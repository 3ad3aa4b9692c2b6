import { execFile } from 'node:child_process';
import { chmod, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { requirementsOf } from './requirement-flags.ts';

let dir = '';
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nv-requirements-'));
});
afterAll(() => rm(dir, { recursive: true }));

async function file(name: string, text: string): Promise<string> {
  const path = join(dir, name);
  await mkdir(join(path, '..'), { recursive: true });
  await writeFile(path, text);
  return path;
}

const script = (code: string, project: string | null = null) => ({ code, project });

describe('requirementsOf', () => {
  it('joins flags, files and the script’s metadata, in one order', async () => {
    await file('a/more.txt', 'urllib3\n');
    const path = await file('a/requirements.txt', 'Requests>=2\n-r more.txt\n');
    const code = '# /// script\n# dependencies = ["rich", "requests >= 2"]\n# ///\n';
    expect(await requirementsOf({ with: ['zipp,Babel<3'], requirements: [path] }, script(code))).toEqual([
      'babel<3',
      'requests>=2',
      'rich',
      'urllib3',
      'zipp',
    ]);
    expect(await requirementsOf({})).toEqual([]);
    expect(await requirementsOf({}, script('print(1)'))).toEqual([]);
  });

  it('a project that is run brings its own, unless --no-requirements', async () => {
    await file('run/pyproject.toml', '[project]\ndependencies = ["p"]\n');
    const program = script('# /// script\n# dependencies = ["s"]\n# ///\n', join(dir, 'run'));
    expect(await requirementsOf({ with: ['w'] }, program)).toEqual(['p', 's', 'w']);
    expect(await requirementsOf({ with: ['w'], requirements: false }, program)).toEqual(['w']);
    expect(await requirementsOf({}, script('print(1)', dir))).toEqual([]);
  });

  it('a script has the packages of the project around it, up to the current directory', async () => {
    await file('around/pyproject.toml', '[project]\ndependencies = ["p"]\n');
    await file('around/deep/tools/pyproject.toml', '[project]\ndependencies = ["q"]\n');
    const at = (name: string, code = 'print(1)') => ({ ...script(code), path: join(dir, 'around', name) });
    const cwd = vi.spyOn(process, 'cwd').mockReturnValue(join(dir, 'around'));
    try {
      expect(await requirementsOf({ with: ['w'] }, at('main.py'))).toEqual(['p', 'w']);
      expect(await requirementsOf({}, at('deep/main.py'))).toEqual(['p']);
      expect(await requirementsOf({}, at('deep/tools/main.py'))).toEqual(['q']);
      expect(await requirementsOf({ requirements: false }, at('main.py'))).toEqual([]);
      expect(await requirementsOf({}, at('main.py', '# /// script\n# dependencies = ["s"]\n# ///\n'))).toEqual(['s']);
      expect(await requirementsOf({}, at('main.py', '# /// script\n# ///\n'))).toEqual([]);
      expect(await requirementsOf({}, script('print(1)'))).toEqual([]);
      cwd.mockReturnValue(join(dir, 'around/deep'));
      expect(await requirementsOf({}, at('deep/main.py'))).toEqual([]);
      await file('around/pyproject.toml', '[project]\ndynamic = ["dependencies"]\n');
      await expect(requirementsOf({}, at('main.py'))).rejects.toMatchObject({
        code: 'project_invalid',
        remedy: expect.stringContaining('run --no-requirements ignores ../pyproject.toml'),
      });
    } finally {
      cwd.mockRestore();
    }
  });

  it('extras of a project, by --with and --requirements', async () => {
    await file('x/pyproject.toml', '[project]\ndependencies = ["p"]\noptional-dependencies.dev = ["q"]\n');
    const project = join(dir, 'x');
    expect(await requirementsOf({ with: [`${project}[dev],z`] })).toEqual(['p', 'q', 'z']);
    expect(await requirementsOf({ requirements: [`${project}[dev]`] })).toEqual(['p', 'q']);
    expect(await requirementsOf({ with: [project] })).toEqual(['p']);
    await expect(requirementsOf({ with: [`${project}[docs]`] })).rejects.toThrow('it has dev');
    await file('y/requirements.txt', 'r\n');
    await expect(requirementsOf({ with: [`${join(dir, 'y')}[dev]`] })).rejects.toThrow('has no extras');
  });

  it('a project’s file that is none is left out, and one that never ends is refused', async () => {
    await mkdir(join(dir, 'fifo'), { recursive: true });
    await promisify(execFile)('mkfifo', [join(dir, 'fifo', 'pyproject.toml')]);
    expect(await requirementsOf({}, script('print(1)', join(dir, 'fifo')))).toEqual([]);
    await mkdir(join(dir, 'endless'), { recursive: true });
    await symlink('/dev/zero', join(dir, 'endless', 'pyproject.toml'));
    expect(await requirementsOf({}, script('print(1)', join(dir, 'endless')))).toEqual([]);
    await expect(requirementsOf({ requirements: ['/dev/zero'] })).rejects.toThrow('too large');
    const huge = await file('huge/pyproject.toml', '#'.repeat(5_000_000));
    await expect(requirementsOf({}, script('', join(huge, '..')))).rejects.toThrow('too large');
  });

  it('a requirements file from a pipe, as the shell’s <(…) gives it', async () => {
    const path = join(dir, 'pipe');
    await promisify(execFile)('mkfifo', [path]);
    const writing = writeFile(path, 'piped\n');
    expect(await requirementsOf({ requirements: [path] })).toEqual(['piped']);
    await writing;
  });

  it('reads the project of a directory', async () => {
    await file('b/pyproject.toml', '[project]\ndependencies = ["b"]\nrequires-python = ">=3.9"\n');
    await file('c/requirements.txt', 'c\n');
    expect(await requirementsOf({ requirements: [join(dir, 'b'), join(dir, 'c')] })).toEqual(['b', 'c']);
  });

  it('asks uv for a lock file, and says what to do without it', async () => {
    const path = await file('d/pyproject.toml', '[project]\ndependencies = ["d"]\n');
    await file('d/uv.lock', 'version = 1\n');
    await mkdir(join(dir, 'bin'), { recursive: true });
    vi.stubEnv('PATH', join(dir, 'bin'));
    try {
      await expect(requirementsOf({ requirements: [path] })).rejects.toMatchObject({
        message: expect.stringContaining('can be read only by uv'),
        remedy: expect.stringContaining('uv export'),
      });
      const uv = await file('bin/uv', `#!/bin/sh\necho "d==1 --hash=sha256:${'a'.repeat(64)}"\n`);
      await chmod(uv, 0o755);
      expect(await requirementsOf({ requirements: [path] })).toEqual([`d==1 --hash=sha256:${'a'.repeat(64)}`]);
      await file('d/pyproject.toml', '[project.optional-dependencies]\nplots = []\n[dependency-groups]\ndev = []\n');
      await writeFile(uv, '#!/bin/sh\ncase "$*" in *"--extra plots --group dev"*) echo chosen;; *) exit 2;; esac\n');
      expect(await requirementsOf({ requirements: [`${join(dir, 'd')}[plots, dev]`] })).toEqual(['chosen']);
      await writeFile(uv, '#!/bin/sh\nexit 2\n');
      await expect(requirementsOf({ requirements: [path] })).rejects.toThrow('uv could not');
    } finally {
      vi.unstubAllEnvs();
    }
  });

  it.each<[string, string, string]>([
    ['none.txt', '', 'does not exist'],
    ['wrong.toml', '[project', 'not TOML'],
    ['py.toml', '[project]\nrequires-python = ">=3.12"\n', 'Python >=3.12 is required'],
    ['e/x', '', 'neither pyproject.toml nor requirements.txt'],
  ])('refuses %s', async (name, text, why) => {
    const path = join(dir, name);
    if (name === 'e/x') await mkdir(path, { recursive: true });
    else if (text !== '') await file(name, text);
    await expect(requirementsOf({ requirements: [path] })).rejects.toThrow(why);
  });

  it('refuses a script that needs another Python, before anything starts', async () => {
    const code = '# /// script\n# requires-python = ">=3.13"\n# ///\n';
    await expect(requirementsOf({}, script(code))).rejects.toMatchObject({ code: 'python_unfit' });
  });
});
