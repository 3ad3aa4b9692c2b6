/** OOM kills and endings as a user of the daemon sees them: real VMs, real commands. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { useDaemonHome } from '../support/daemon.ts';

const home = useDaemonHome();
const BALLOON = 'kept = []\nwhile True: kept.append(bytearray(1 << 20))';

/** Allocated at once, as by NumPy. */
const MUCH = 'much = bytearray(b"x") * (400 << 20)\nprint(len(much) >> 20)';

describe('a sandbox whose program takes all memory', () => {
  beforeAll(async () => {
    await home.serve('-o', 'json', '--pool', '0').ready();
  });

  it('exec names the OOM victim, events list it in order, the sandbox continues, and its end has a cause', async () => {
    const { says, there } = home;
    const id = await says('create', '--boot', '--memory', '192M', '--warm', 'json');
    const following = there(['events', '-f', id]);
    const killed = await there(['exec', id, '-c', BALLOON]).result;
    expect(killed.status).toBe(137);
    expect(killed.stderr).toMatch(
      /the program was killed: the sandbox ran out of memory \(python\S*, pid \d+, \d+ MiB\)/,
    );
    await following.seen('oom  ');
    expect(await says('exec', id, '--', 'echo', 'alive')).toBe('alive');
    expect(await says('logs', id)).toContain('Killed process');

    const record = JSON.parse(await readFile(join(home.runDir, id, 'owner.json'), 'utf8'));
    process.kill((record as { vmm: { pid: number } }).vmm.pid, 'SIGKILL');
    const { status, stdout } = await following.result;
    expect(status).toBe(0);
    const types = stdout
      .trimEnd()
      .split('\n')
      .map((line) => line.split('  ')[1]);
    expect(types.indexOf('near_oom')).toBeGreaterThan(-1);
    expect(types.indexOf('near_oom')).toBeLessThan(types.indexOf('oom'));
    expect(types.at(-1)).toBe('end');
    expect(await says('ls', '-a')).toContain('ended (vmm-killed)');
    const shown = await says('inspect', id);
    expect(shown).toMatch(/ended +\d+ (s|min.*) ago, vmm-killed: another process sent SIGKILL/);
    expect(shown).toMatch(/last OOM kill +\d+ (s|min.*) ago, guest: python/);
    expect(await says('logs', id)).toContain('Killed process');
    const gone = await there(['exec', id, '--', 'true']).result;
    expect(gone.stderr).toContain(`sandbox ${id} has ended: vmm-killed`);
  });

  it.each([
    ['of the daemon', '--daemon'],
    ['of this process', '--no-daemon'],
  ])('run --memory-max: a script in a sandbox %s gets the memory that it needs', async (_, where) => {
    const size = ['--memory', '192M', '--warm', 'json', where];
    const run = (...more: string[]) => home.there(['run', ...size, ...more, '-c', MUCH]).result;
    expect(await run('--memory-max', '768M')).toMatchObject({ status: 0, stdout: '400\n' });
    const without = await run();
    expect(without).toMatchObject({ status: 1, stdout: '' });
    expect(without.stderr).toContain('MemoryError');
  });
});
