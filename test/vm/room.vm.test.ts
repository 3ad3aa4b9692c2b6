/** The room: what programs see of the guest, and that the agent is outside of it. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Supervisor } from '../../src/sandbox/vm/supervisor.ts';
import { exec, python, SMALL, useRuntime } from '../support/vm.ts';

const fixture = useRuntime();
const ROOT = { user: 'root' };

describe('the room', () => {
  let sandbox: Supervisor;
  beforeAll(async () => {
    sandbox = await fixture.runtime.startVm(SMALL);
  });
  afterAll(() => sandbox.stop());

  it('a program’s own pid is the one that the host knows', async () => {
    const guest = sandbox.guest();
    const shell = await guest.exec({ argv: ['sh', '-c', 'echo $$; read x'] });
    const script = await guest.python({ script: { code: 'import os; print(os.getpid()); input()' } });
    for (const process of [shell, script]) {
      const [line] = (await process.stdout.take(1).toArray()) as Buffer[];
      expect(`${line}`).toBe(`${process.pid}\n`);
    }
    const pids = (await guest.processes()).map(({ pid }) => pid);
    expect(pids.sort()).toEqual([shell.pid, script.pid].sort());
    expect(await guest.signal(script.pid, 'SIGKILL')).toBe(true);
    expect((await script.exit).signal).toBe('SIGKILL');
    shell.stdin.end('x\n');
    expect((await shell.exit).exitCode).toBe(0);
  });

  it('root sees no process of the agent, no mount of the system, and only its own root in process 1', async () => {
    const code = [
      'import glob',
      'commands = {open(path).read() for path in glob.glob("/proc/[0-9]*/cmdline")}',
      'print([each for each in commands if "__main__.py" in each])',
      'print(open("/proc/1/root/etc/hostname").read() == open("/etc/hostname").read())',
      'print([line.split()[4] for line in open("/proc/self/mountinfo") if line.split()[4] in ("/run/disk", "/run/root")])',
    ];
    const seen = await python(sandbox.guest(), code.join('\n'), ROOT);
    expect(seen).toMatchObject({ stdout: '[]\nTrue\n[]\n', stderr: '' });
  });

  it('a program can’t look into a file operation of the same user, which has the agent’s memory', async () => {
    const guest = sandbox.guest();
    const watch = await guest.files.watch('/home/user', {}, () => undefined);
    const code = [
      'import glob, os',
      'def look(pid):',
      '    try: return os.open(f"/proc/{pid}/mem", os.O_RDONLY) > 0',
      '    except OSError as error: return error.errno',
      'def is_agent(pid): return "__main__.py" in open(f"/proc/{pid}/cmdline").read()',
      'others = [pid for pid in os.listdir("/proc") if pid.isdigit() and pid != str(os.getpid()) and is_agent(pid)]',
      'print(look(os.getpid()), [look(pid) for pid in others])',
    ];
    expect(await python(guest, code.join('\n'))).toMatchObject({ stdout: 'True [13]\n', stderr: '' });
    watch.stop();
    await watch.ended;
  });

  it('its process 1 reaps orphans, and a signal of root does not end it', async () => {
    const guest = sandbox.guest();
    const left = 'sleep 0.1 & kill -9 1; kill -15 1; exit 0';
    expect(await exec(guest, ['sh', '-c', left], ROOT)).toMatchObject({ exitCode: 0 });
    await expect
      .poll(async () => (await exec(guest, ['sh', '-c', 'cat /proc/[0-9]*/stat'])).stdout)
      .not.toMatch(/\((sleep|sh)\) Z/);
  });

  it('a device node that root makes on the disk can’t be opened', async () => {
    const command = 'mknod /srv/disk b 254 0 && head -c 1 /srv/disk';
    const made = await exec(sandbox.guest(), ['sh', '-c', command], ROOT);
    expect(made).toMatchObject({ exitCode: 1, stderr: expect.stringContaining('Permission denied') });
  });

  it('the account files: a link out of the room leads nowhere', async () => {
    const guest = sandbox.guest();
    // The same file, by its name outside of the room.
    const moves = [
      'mv /etc/passwd /etc/kept && ln -s /run/disk/upper/etc/kept /etc/passwd && echo linked',
      'read line; rm /etc/passwd; mv /etc/kept /etc/passwd',
    ];
    const shell = await guest.exec({ argv: ['sh', '-c', moves.join('\n')], ...ROOT });
    await shell.stdout.take(1).toArray();
    await expect(guest.exec({ argv: ['true'] })).rejects.toMatchObject({ code: 'not_found' });
    shell.stdin.end('\n');
    expect((await shell.exit).exitCode).toBe(0);
    expect(await exec(guest, ['id', '-un'])).toMatchObject({ stdout: 'user\n' });
  });

  it('root may change /etc/hosts, a user may not', async () => {
    const guest = sandbox.guest();
    const add = ['sh', '-c', 'echo 127.0.0.1 added >> /etc/hosts && grep added /etc/hosts'];
    expect(await exec(guest, add)).toMatchObject({ exitCode: 2 });
    expect(await exec(guest, add, ROOT)).toMatchObject({ stdout: '127.0.0.1 added\n' });
  });

  it('the agent writes through no link that root puts among its files', async () => {
    const guest = sandbox.guest();
    await guest.update({ env: {} });
    const link = ['ln', '-s', '/run/disk/upper/leak', '/run/neurovisor/cargo.toml'];
    expect(await exec(guest, link, ROOT)).toMatchObject({ exitCode: 0, stderr: '' });
    await guest.update({ env: { NEUROVISOR_PACKAGES: 'cargo' } });
    expect(await exec(guest, ['ls', '/leak'], ROOT)).toMatchObject({ exitCode: 2 });
  });
});
