/** `neurovisor seccomp` as a user calls it. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type CliResult, cli, ROOT } from '../support/cli.ts';

const QEMU = join(ROOT, 'policy/qemu-x86_64.json');
const THREAD = { default_action: 'trap', filter_action: 'allow', filter: [{ syscall: 'read' }] };

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-seccomp-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

const run = (...words: string[]): Promise<CliResult> => cli(['seccomp', ...words]).result;

function profile(threads: object): string {
  const path = join(dir, 'profile.json');
  writeFileSync(path, JSON.stringify(threads));
  return path;
}

describe('seccomp', () => {
  it('check: reports valid and invalid profiles, and exits accordingly', async () => {
    const bad = profile({ vmm: { ...THREAD, filter: [{ syscall: 'raed' }] } });
    const both = await run('check', QEMU, bad);
    expect(both.status).toBe(1);
    expect(both.stdout).toContain('thread qemu: ');
    expect(both.stdout).toContain('no system call "raed" on x86_64');
    expect(both.stdout).toContain('bad  ');
    expect(await run('check', QEMU)).toMatchObject({ status: 0, stderr: '' });
    const json = await run('check', join(dir, 'none.json'), '-o', 'json');
    expect(json.status).toBe(1);
    expect(JSON.parse(json.stdout)[0].error).toContain('ENOENT');
  });

  it('explain: prints rules with their call sites, or the program', async () => {
    const text = await run('explain', QEMU);
    expect(text.stdout).toMatch(/56 +clone +arg0 & 0x10000 == 0x10000 +allow +CLONE_THREAD/);
    const program = await run('explain', profile({ vmm: THREAD }), '--program', '--arch', 'aarch64');
    expect(program.stdout.split('\n').slice(0, 2)).toEqual([
      '   0  A = arch',
      '   1  if A == 0xc00000b7 goto 2 else 5',
    ]);
    expect(await run('explain', QEMU, 'vcpu')).toMatchObject({ status: 2 });
  });

  it('compile: writes the program of one thread, or the Firecracker file of all', async () => {
    const out = join(dir, 'out');
    const three = profile({ vmm: THREAD, api: THREAD, vcpu: THREAD });
    const raw = await run('compile', three, '--thread', 'api', '--out', out);
    expect(raw).toMatchObject({ status: 0, stderr: '' });
    const program = readFileSync(out);
    expect(program.length % 8).toBe(0);
    await run('compile', three, '--firecracker', '1.16.1', '--out', out);
    const file = readFileSync(out);
    expect(file.subarray(5, 15).toString()).toBe('apivcpuvmm');
    expect(file.subarray(-program.length)).toEqual(program);
    const log = await run('compile', three, '--thread', 'api', '--mode', 'log', '--out', out);
    expect(log.status).toBe(0);
    expect(readFileSync(out)).not.toEqual(program);
    expect((await run('compile', three, '--out', out)).stderr).toContain('Name one of');
    expect(await run('compile', three, '--firecracker', 'x', '--out', out)).toMatchObject({ status: 2 });
    expect((await run('compile', QEMU, '--firecracker', '1.16.1', '--out', out)).stderr).toContain('no thread "qemu"');
  });

  it('learn: prints a profile that allows the traced program', async () => {
    const { stdout, stderr, status } = await run('learn', '--thread', 'cat', '--', 'cat', QEMU);
    expect(status).toBe(0);
    expect(stderr).toContain('default_action');
    const learnt = join(dir, 'learnt.json');
    writeFileSync(learnt, stdout);
    expect((await run('check', learnt)).stdout).toContain('thread cat: ');
    const calls = JSON.parse(stdout).cat.filter.map(({ syscall }: { syscall: string }) => syscall);
    expect(calls).toEqual(expect.arrayContaining(['execve', 'read', 'write', 'exit_group']));
    expect(calls).not.toContain('socket');
    // The last program is not the requested one.
    const both = ['sh', '-c', `cat ${QEMU} >&2; ls / >&2; sleep 0`];
    const named = await run('learn', '--thread', 'cat', '--program', 'cat', '--', ...both);
    const ofCat = JSON.parse(named.stdout).cat.filter.map((one: { syscall: string }) => one.syscall);
    expect(ofCat).toContain('fadvise64');
    expect(ofCat).not.toContain('getdents64');
  });

  it('learn: reports a missing program, or one that did not start, on stderr', async () => {
    for (const name of ['nosuchprogram', '/nonexistent/program', dir]) {
      const { status, stdout, stderr } = await run('learn', '--', name);
      expect([status, stdout]).toEqual([2, '']);
      expect(stderr).toContain(`program ${name} not found`);
    }
    const unseen = await run('learn', '--program', 'dog', '--', 'cat', QEMU);
    expect([unseen.status, unseen.stdout]).toEqual([125, '']);
    expect(unseen.stderr).toContain('no call after a program is started');
    const traces = await run('learn', '--traces', join(dir, 'none'));
    expect([traces.status, traces.stdout]).toEqual([2, '']);
  });

  it('missing files and unknown threads are usage errors', async () => {
    const three = profile({ vmm: THREAD, api: THREAD, vcpu: THREAD });
    const none = join(dir, 'none');
    const bad: [string[], string][] = [
      [['explain', none], `${none}: no such file or directory`],
      [['explain', QEMU, 'vcpu', '--program'], 'no thread "vcpu"'],
      [['compile', three, '--out', join(dir, 'none/out')], 'it has several threads'],
      [['compile', three, '--thread', 'api', '--out', join(dir, 'none/out')], 'none/out: no such file'],
      [['compile', three, '--firecracker', '9.9.9', '--out', none], 'unsupported version 9.9.9'],
      [['compile', three, '--firecracker', '1.14.2', '--out', none], 'use 1.15 or newer'],
    ];
    for (const [words, message] of bad) {
      const { status, stderr } = await run(...words);
      expect(stderr).toContain(message);
      expect([words, status]).toEqual([words, 2]);
    }
  });
});
