/** `neurovisor run` as a process: streams, exit status, signals, usage errors and cleanup. */
import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { resolveHome } from '../../src/base/home.ts';
import { cli as cliOf } from '../support/cli.ts';
import { leftIn } from '../support/daemon.ts';
import { descendants } from '../support/leftovers.ts';
import { requiresRoot } from '../support/requires.ts';
import { temporaryHome } from '../support/vm.ts';

/** Of its own: other files run beside this one, and have sandboxes. */
let home: string;
let runDir: string;
const cli: typeof cliOf = (args, options = {}) =>
  cliOf(args, { ...options, env: { NEUROVISOR_HOME: home, ...options.env } });

beforeAll(async () => {
  home = await temporaryHome();
  ({ runDir } = resolveHome(home));
});
afterAll(() => rm(home, { recursive: true }));

const expectNothingLeft = async (): Promise<void> => expect(await leftIn({ runDir })).toEqual([]);

describe('run', () => {
  it('-c: forwards output, arguments, environment and exit status of the script', async () => {
    const code = `
import os, sys
print('out', sys.argv[1:], os.environ['GREETING'])
print('err', file=sys.stderr)
sys.exit(7)
`;
    const run = cli(['run', '-c', code, '-e', 'GREETING=hello there', '--', '--flag', 'x y']);
    expect(await run.result).toEqual({
      status: 7,
      signal: null,
      stdout: "out ['--flag', 'x y'] hello there\n",
      stderr: 'err\n',
    });
    await expectNothingLeft();
  });

  it('-: reads the script from standard input; two runs at once do not interfere', async () => {
    const runs = [1, 2].map((n) => cli(['run', '-'], { input: `print(${n} * 100)` }));
    const results = await Promise.all(runs.map((run) => run.result));
    expect(results.map((result) => [result.status, result.stdout])).toEqual([
      [0, '100\n'],
      [0, '200\n'],
    ]);
    await expectNothingLeft();
  });

  it('-o json: prints one object with output, exit and phases', async () => {
    const run = cli(['run', '-o', 'json', '-c', 'print("x"); raise SystemExit(3)']);
    const { status, stdout } = await run.result;
    expect(status).toBe(3);
    expect(JSON.parse(stdout)).toMatchObject({
      accelerator: expect.stringMatching(/^(kvm|tcg)$/),
      exit: { exitCode: 3, timedOut: false, oomKilled: false },
      end: null,
      stdout: 'x\n',
      stderr: '',
    });
    const names = JSON.parse(stdout).phases.map((phase: { name: string }) => phase.name);
    expect(names).toEqual(['prepare', 'vmm', 'agent', 'script start', 'first output', 'script']);
  });

  it('--boot: boots, and reports the phases of a boot', async () => {
    const { stdout } = await cli(['run', '-o', 'json', '--boot', '-c', '']).result;
    const names = JSON.parse(stdout).phases.map((phase: { name: string }) => phase.name);
    expect(names).toEqual(['prepare', 'vmm', 'kernel', 'agent', 'script start', 'script']);
  });

  it('template ls, inspect: show the template that run starts from', async () => {
    const list = JSON.parse((await cli(['template', 'ls', '-o', 'json']).result).stdout);
    const current = list.filter((one: { current: boolean }) => one.current);
    expect(current.length).toBeGreaterThan(0);
    const { key } = current[0];
    const { stdout } = await cli(['template', 'inspect', key.slice(0, 20), '-o', 'json']).result;
    expect(JSON.parse(stdout)).toEqual(current[0]);
    expect((await cli(['template', 'rm', 'none']).result).status).toBe(2);
  });

  it('--cpus, --memory: the guest has the requested size', async () => {
    const code = "import os; print(os.cpu_count(), int(open('/proc/meminfo').read().split()[1]) // 1024)";
    const { stdout } = await cli(['run', '--cpus', '2', '--memory', '384M', '-c', code]).result;
    const [cpus, mib] = stdout.split(' ').map(Number);
    expect(cpus).toBe(2);
    expect(mib).toBeGreaterThan(320);
    expect(mib).toBeLessThanOrEqual(384);
  });

  it('--timeout: ends the script with status 124', async () => {
    const run = cli(['run', '--timeout', '2s', '-c', 'import time; time.sleep(600)']);
    const { status, stderr } = await run.result;
    expect(status).toBe(124);
    expect(stderr).toContain('exceeded its time limit');
    await expectNothingLeft();
  });

  it('Ctrl-C: lets the script end by itself, and leaves nothing behind', async () => {
    const code = `
import time
try:
    print('started', flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    print('interrupted', flush=True)
    raise SystemExit(130)
`;
    const run = cli(['run', '-c', code]);
    await run.seen('started');
    run.kill('SIGINT');
    expect(await run.result).toMatchObject({ status: 130, stdout: 'started\ninterrupted\n' });
    await expectNothingLeft();
  });

  it('SIGTERM: ends at once and leaves nothing behind', async () => {
    const run = cli(['run', '-c', 'print("started", flush=True)\nwhile True: pass']);
    await run.seen('started');
    run.kill('SIGTERM');
    expect((await run.result).status).toBe(143);
    await expectNothingLeft();
  });

  it('kill -9: the VM dies with it, and the next run removes leftovers', async () => {
    const run = cli(['run', '-c', 'print("started", flush=True)\nwhile True: pass']);
    await run.seen('started');
    const orphans = await descendants(run.pid);
    expect(orphans.some((one) => one.includes('qemu'))).toBe(true);
    run.kill('SIGKILL');
    await run.result;
    await sleep(1_000);
    const alive = await descendants(1);
    expect(alive.filter((one) => orphans.includes(one))).toEqual([]);
    expect(await cli(['run', '-c', 'print("next")']).result).toMatchObject({ stdout: 'next\n' });
    await expectNothingLeft();
  });

  it('--project, --sync and --out: a project goes in, its changes and results come back', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'nv-results-'));
    try {
      await mkdir(join(dir, 'work/pkg'), { recursive: true });
      await writeFile(join(dir, 'work/pkg/__init__.py'), 'VALUE = 42\n');
      await writeFile(join(dir, 'work/notes.txt'), 'one\n');
      const code = `
import os, pkg
open('notes.txt', 'a').write(f'{pkg.VALUE}\\n')
os.makedirs('/home/user/plots'); open('/home/user/plots/a.bin', 'wb').write(bytes(range(256)))
raise SystemExit(3)
`;
      const args = ['--project', 'work', '--sync', '--yes', '--out', '~/plots', '-c', code];
      const { status, stderr } = await cli(['run', ...args], { cwd: dir }).result;
      expect(status).toBe(3);
      expect(stderr).toContain('  changed   notes.txt  4 B -> 7 B\n');
      expect(stderr).toContain(' one\n+42\n');
      expect(await readFile(join(dir, 'work/notes.txt'), 'utf8')).toBe('one\n42\n');
      const every = Buffer.from([...Array(256).keys()]);
      expect(await readFile(join(dir, 'plots/a.bin'))).toEqual(every);
      expect((await readdir(join(dir, 'work'))).sort()).toEqual(['notes.txt', 'pkg']);
    } finally {
      await rm(dir, { recursive: true });
    }
    await expectNothingLeft();
  });

  it('reboot in the guest ends the sandbox with status 0', async () => {
    const code = 'import ctypes; ctypes.CDLL(None).reboot(0x01234567)';
    const run = cli(['run', '--user', 'root', '-c', code]);
    const { status } = await run.result;
    expect(status).toBe(0);
    await expectNothingLeft();
  });
});

describe('run: invalid input', () => {
  const bad: [string, string[], number, string[]][] = [
    ['a missing script', ['run', 'nowhere.py'], 2, ['nowhere.py does not exist', 'fix:']],
    ['a binary script', ['run', '/bin/true'], 2, ['/bin/true is binary']],
    ['a directory', ['run', 'src'], 2, ['is a directory']],
    ['nothing to run', ['run'], 2, ['missing script', 'neurovisor run FILE']],
    ['an unknown option', ['run', '--wat', 'x.py'], 2, ["unknown option '--wat'"]],
    ['a bad size', ['run', '--memory', 'lots', '-c', '1'], 2, ['invalid memory size "lots"']],
    ['too little memory', ['run', '--memory', '1', '-c', '1'], 2, ['--memory', '128M to 64G']],
    ['an unknown model', ['run', '--model', 'gpt-9', '-c', '1'], 125, ['gpt-9', 'smollm2-135m-instruct']],
    ['a missing model file', ['run', '--model', '/no.gguf', '-c', '1'], 2, ['does not exist']],
    ['-it without a terminal', ['run', '-it'], 2, ['needs a terminal']],
  ];
  it.each(bad)('%s is refused with the reason', async (_what, args, status, texts) => {
    const result = await cli(args).result;
    expect(result.stdout).toBe('');
    for (const text of texts) expect(result.stderr).toContain(text);
    expect(result.status).toBe(status);
  });

  it('an unreachable upstream is refused before anything boots', async () => {
    const env = { NEUROVISOR_UPSTREAM: 'http://127.0.0.1:1' };
    const { status, stderr } = await cli(['run', '-c', '1'], { env }).result;
    expect(stderr).toContain('no OpenAI-compatible server answers at http://127.0.0.1:1');
    expect(stderr).toContain('fix:');
    expect(status).toBe(125);
  });

  it('an invalid environment variable is named', async () => {
    const { status, stderr } = await cli(['doctor'], { env: { NEUROVISOR_GPU: 'quantum' } }).result;
    expect(stderr).toContain('NEUROVISOR_GPU');
    expect(status).toBe(125);
  });

  requiresRoot().it('a full disk: set-up names the space it needs', async () => {
    const small = await mkdtemp(join(tmpdir(), 'nv-full-'));
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=32m', 'tmpfs', small]);
    try {
      // The Node that runs this test, so that the launcher does not fetch one onto the full disk.
      const PATH = `${dirname(process.execPath)}:${process.env['PATH']}`;
      const { status, stderr } = await cli(['run', '-c', '1'], { env: { NEUROVISOR_HOME: small, PATH } }).result;
      expect(stderr).toMatch(/needs \d+ MiB of disk space/);
      expect(stderr).toContain('fix:');
      expect(status).toBe(125);
    } finally {
      execFileSync('umount', [small]);
      await rm(small, { recursive: true });
    }
  });

  it('-o json: prints errors as objects', async () => {
    const { status, stdout } = await cli(['run', '-o', 'json', 'nowhere.py']).result;
    expect(status).toBe(2);
    expect(JSON.parse(stdout)).toEqual({
      error: { code: 'usage', message: 'script nowhere.py does not exist', remedy: 'check the path' },
    });
  });
});
