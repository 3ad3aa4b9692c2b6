/** The launcher that installs a filter and executes a program, under the real kernel. */
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compileProfile } from '../../src/machine/jail/seccomp/compile.ts';
import { filteredExec, LAUNCHER_ENDS } from '../../src/machine/jail/seccomp/filtered-exec.ts';
import { parseProfile } from '../../src/machine/jail/seccomp/profile.ts';

const EISDIR = 21;
const POLICY = {
  only: {
    default_action: 'allow',
    filter_action: { errno: EISDIR },
    filter: [{ syscall: 'mkdir' }, { syscall: 'mkdirat' }],
  },
};

describe('filteredExec', () => {
  let dir: string;
  let launcher: string;
  beforeAll(() => {
    dir = mkdtempSync(join(tmpdir(), 'nv-filtered-'));
    launcher = join(dir, 'launcher');
    const filter = parseProfile(JSON.stringify(POLICY)).get('only');
    if (filter === undefined) throw new Error('no filter');
    writeFileSync(launcher, filteredExec(compileProfile(filter, 'x86_64')), { mode: 0o700 });
  });
  afterAll(() => rmSync(dir, { recursive: true, force: true }));

  const run = (...words: string[]) => {
    const env = { GREETING: 'hello there', LC_ALL: 'C' };
    const { status, stdout, stderr } = spawnSync(launcher, words, { env, encoding: 'utf8' });
    return { status, stdout, stderr };
  };

  it('the executed program gets the arguments and environment, and its status is returned', () => {
    const script = 'printf "%s|" "$0" "$@" "$GREETING"; exit 7';
    expect(run('/bin/sh', '-c', script, 'zero', 'a b', '', 'c')).toEqual({
      status: 7,
      stdout: 'zero|a b||c|hello there|',
      stderr: '',
    });
  });

  it('the program and its children have the filter and no new privileges', () => {
    const told = (text: string, name: string): number =>
      Number(new RegExp(`^${name}:\\s*(\\d+)$`, 'm').exec(text)?.[1]);
    const [plain, filtered] = [
      spawnSync('/bin/cat', ['/proc/self/status'], { encoding: 'utf8' }),
      run('/bin/sh', '-c', '/bin/cat /proc/self/status; exit 0'),
    ].map(({ stdout }) => stdout);
    expect(told(filtered ?? '', 'Seccomp')).toBe(2);
    expect(told(filtered ?? '', 'NoNewPrivs')).toBe(1);
    expect(told(filtered ?? '', 'Seccomp_filters')).toBe(told(plain ?? '', 'Seccomp_filters') + 1);
    const made = run('/bin/mkdir', join(dir, 'never'));
    expect(made.stderr).toContain('Is a directory');
    expect(made.status).toBe(1);
    expect(run('/bin/rmdir', join(dir, 'none')).stderr).toContain('No such file');
  });

  it('a program that is missing, not executable or not given: exits with 126', () => {
    const text = join(dir, 'text');
    writeFileSync(text, 'no program');
    chmodSync(text, 0o600);
    for (const words of [[join(dir, 'none')], [text], []])
      expect(run(...words)).toEqual({ status: LAUNCHER_ENDS.program, stdout: '', stderr: '' });
  });

  it('a filter that the kernel rejects: its own exit status, and the program does not start', () => {
    const wrong = join(dir, 'wrong');
    const program = Uint8Array.from(Array(16).fill(0xff));
    writeFileSync(wrong, filteredExec({ program, instructions: 2 }), { mode: 0o700 });
    expect(spawnSync(wrong, ['/bin/echo', 'started'], { encoding: 'utf8' })).toMatchObject({
      status: LAUNCHER_ENDS.filter,
      stdout: '',
    });
  });
});
