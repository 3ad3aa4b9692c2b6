/** VMs of a daemon that is killed: its launcher starts another, which takes them over. */
import { readdir } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import type { SandboxInfo } from '../../src/sandbox/contract/control.ts';
import { type DaemonHome, daemonOf, leftIn, useDaemonHome, vmmsIn } from '../support/daemon.ts';

const list = async ({ says }: DaemonHome): Promise<SandboxInfo[]> => JSON.parse(await says('ls', '-o', 'json'));

/** Kills the daemon, and waits for the next one of its launcher. */
async function crash(home: DaemonHome, launcher: number): Promise<void> {
  await another(home, launcher, () => process.kill(daemonOf(launcher) ?? 0, 'SIGKILL'));
}

async function another(home: DaemonHome, launcher: number, end: () => void): Promise<void> {
  const before = daemonOf(launcher) ?? 0;
  end();
  await expect.poll(() => daemonOf(launcher) ?? before).not.toBe(before);
  await expect.poll(async () => (await home.there(['ls']).result).status, { timeout: 30_000 }).toBe(0);
}

/** A program that counts in memory; the file has the newest number, and is never empty. */
const counter = (file: string): string =>
  `i=0; while :; do i=$((i + 1)); echo $i > ${file}.new; mv ${file}.new ${file}; sleep 0.05; done`;
const COUNTER = counter('n');
const counted = async ({ says }: DaemonHome, id: string): Promise<number> =>
  Number(await says('exec', id, '--', 'cat', 'n'));

describe('kill -9 of a launched daemon', () => {
  const home = useDaemonHome();

  it('its VMs go on in the next one, which saves them; starts and pool members end', async () => {
    const launcher = home.launched('-o', 'json', '--pool', '1');
    await launcher.ready();
    const id = await home.says('create', '--timeout', '1h');
    // Its RAM is its own, and not a template's.
    const booted = await home.says('create', '--boot');
    await home.says('exec', '--detach', booted, '--', 'bash', '-c', COUNTER);
    const held = await home.says('create');
    await home.says('pause', held, '--to', 'memory');
    await home.says('exec', '--detach', id, '--', 'bash', '-c', COUNTER);
    const [{ endsAtMs } = { endsAtMs: 0 }] = (await list(home)).filter((one) => one.id === id);
    const vmms = await vmmsIn(home.runDir);

    await crash(home, launcher.pid);
    expect(launcher.stderr()).toContain('signal 9 ended the daemon; starting it again');
    const [kept] = (await list(home)).filter((one) => one.id === id);
    expect(kept).toMatchObject({ status: 'running', endsAtMs });
    expect((await list(home)).find((one) => one.id === held)).toMatchObject({ status: 'paused', pausedTo: 'memory' });
    expect(await home.says('events', id)).toContain('the daemon was restarted after');
    const first = await counted(home, id);
    expect(first).toBeGreaterThan(0);
    await expect.poll(() => counted(home, id)).toBeGreaterThan(first);
    const now = await vmmsIn(home.runDir);
    expect(now.filter((one) => vmms.includes(one))).toHaveLength(3);

    await another(home, launcher.pid, () => launcher.kill('SIGHUP'));
    expect(await counted(home, id)).toBeGreaterThan(first);

    // All of it, again, and a save of what was taken over.
    await crash(home, launcher.pid);
    await home.says('pause', id);
    const saved = await counted(home, id);
    await expect.poll(() => counted(home, id)).toBeGreaterThan(saved);
    await home.says('pause', booted);
    const before = await counted(home, booted);
    await expect.poll(() => counted(home, booted)).toBeGreaterThan(before);
    const [copy = ''] = (await home.says('fork', id)).split('\n');
    expect(await counted(home, copy)).toBeGreaterThan(saved);

    launcher.kill('SIGTERM');
    expect(await launcher.ended).toBe(0);
    expect(await leftIn(home)).toEqual([]);
  });

  it('attached programs go on; a save that was under way left the VM usable', async () => {
    const launcher = home.launched('-o', 'json', '--pool', '0');
    await launcher.ready();
    const id = await home.says('create');
    const attached = home.there(['exec', id, '--', 'bash', '-c', counter('n')]).result;
    await expect.poll(() => home.says('exec', id, '--', 'ls')).toMatch(/^n$/m);
    await crash(home, launcher.pid);
    // Of the connection; the program goes on.
    expect((await attached).status).toBe(125);
    const first = await counted(home, id);
    await expect.poll(() => counted(home, id)).toBeGreaterThan(first);

    for (const ms of [150, 400]) {
      const saving = home.there(['snapshot', 'create', id]).result;
      await sleep(ms);
      await crash(home, launcher.pid);
      await saving;
      const before = await counted(home, id);
      await expect.poll(() => counted(home, id)).toBeGreaterThan(before);
    }
    launcher.kill('SIGTERM');
    expect(await launcher.ended).toBe(0);
    expect(await leftIn(home)).toEqual([]);
  });

  it('volumes stay with their VM, and with no other', async () => {
    const launcher = home.launched('-o', 'json', '--pool', '0');
    await launcher.ready();
    await home.says('volume', 'create', 'data', '--size', '64M');
    const id = await home.says('create', '--volume', 'data:/data');
    await home.says('exec', id, '--', 'sh', '-c', 'echo before > /data/a');
    await crash(home, launcher.pid);
    expect(await home.says('exec', id, '--', 'sh', '-c', 'echo after >> /data/a; cat /data/a')).toBe('before\nafter');
    expect((await home.there(['create', '--volume', 'data:/data:ro']).result).stderr).toContain(
      `${id} has volume data`,
    );
    // A pause needs all of what the daemon has of it.
    await home.says('pause', id);
    expect(await home.says('exec', id, '--', 'cat', '/data/a')).toBe('before\nafter');
    await home.says('rm', id);
    const reader = await home.says('create', '--volume', 'data:/data:ro');
    expect(await home.says('exec', reader, '--', 'cat', '/data/a')).toBe('before\nafter');
    launcher.kill('SIGTERM');
    expect(await launcher.ended).toBe(0);
    expect(await leftIn(home)).toEqual([]);
  });

  it('a killed launcher ends its daemon, and the next start of another leaves nothing', async () => {
    const launcher = home.launched('-o', 'json', '--pool', '0');
    await launcher.ready();
    await home.says('create');
    const daemon = daemonOf(launcher.pid) ?? 0;
    process.kill(daemon, 'SIGSTOP');
    launcher.kill('SIGKILL');
    process.kill(daemon, 'SIGKILL');
    await launcher.ended;

    const next = home.serve('-o', 'json', '--pool', '0');
    await next.ready();
    expect(await readdir(home.runDir)).toEqual(['daemon.sock']);
    expect(await vmmsIn(home.runDir)).toEqual([]);
    expect(await list(home)).toEqual([]);
    next.kill('SIGTERM');
    expect(await next.ended).toBe(0);
  });
});
