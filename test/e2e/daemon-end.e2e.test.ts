/** How daemons begin and end: by a signal, by `kill -9`, two at once; and what the next daemon finds. */
import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { SandboxInfo } from '../../src/sandbox/contract/control.ts';
import { ROOT } from '../support/cli.ts';
import { type DaemonHome, leftIn, useDaemonHome, vmmsIn } from '../support/daemon.ts';
import { descendants } from '../support/leftovers.ts';

const list = async ({ says }: DaemonHome): Promise<SandboxInfo[]> => JSON.parse(await says('ls', '-o', 'json'));

/** A sandbox that is paused to disk, with a program that knows a word only in memory. */
async function pausedWithWord({ says }: DaemonHome, word: string): Promise<string> {
  const id = await says('create', '-l', 'kept=yes');
  const program = `word=${word}; trap 'echo $word > told' USR1; while :; do sleep 0.05; done`;
  const pid = await says('exec', '--detach', id, '--', 'bash', '-c', program);
  await says('exec', id, '--', 'sh', '-c', `echo ${pid} > pid`);
  await says('pause', id);
  return id;
}

/** Asks that program for its word; resumes the sandbox. */
const tellsWord = ({ says }: DaemonHome, id: string): Promise<string> => {
  const ask = 'kill -USR1 $(cat pid); until test -s told; do sleep 0.05; done; cat told; rm told';
  return says('exec', id, '--', 'sh', '-c', ask);
};

describe('serve: shutdown', () => {
  const home = useDaemonHome();

  it('SIGTERM: reports what ends and what stays, leaves nothing behind; the next daemon resumes paused sandboxes', async () => {
    const first = home.serve('--pool', '1');
    // A command sent before the socket listens would fail.
    await expect.poll(() => first.stderr(), { timeout: 120_000 }).toContain('Press Ctrl-C to stop');
    expect(first.stderr()).toMatch(/^neurovisor is ready: QEMU .*, models from /m);
    expect(first.stderr()).toContain(`socket  ${home.runDir}/daemon.sock`);
    expect(first.stderr()).toContain('pool    1 idle sandbox');
    const paused = await pausedWithWord(home, 'tulip');
    const running = await home.says('create');
    const inUse = home.there(['exec', running, '--', 'sh', '-c', 'echo started; sleep 600']);
    await inUse.seen('started');
    const below = await descendants(first.pid);
    expect(below.length).toBeGreaterThan(0);

    first.kill('SIGTERM');
    expect(await first.ended).toBe(0);
    expect(first.stderr()).toContain('stopping 1 sandbox; 1 paused to disk is kept');
    expect(first.stdout()).toBe('');
    const { status, stderr } = await inUse.result;
    expect(status).toBe(125);
    expect(stderr).toMatch(/no daemon is running|went away|the sandbox ended/);
    expect(await leftIn(home)).toEqual([]);
    const alive = await descendants(1);
    expect(alive.filter((one) => below.includes(one))).toEqual([]);

    const next = home.serve('-o', 'json', '--pool', '0');
    await next.ready();
    expect(await list(home)).toMatchObject([
      { id: paused, status: 'paused', pausedTo: 'disk', metadata: { kept: 'yes' } },
    ]);
    expect(await tellsWord(home, paused)).toBe('tulip');
    const gone = await home.there(['exec', running, '--', 'true']).result;
    expect(gone.stderr).toContain(`sandbox ${running} has ended: daemon-stopped`);
    await home.says('rm', '--all');
    next.kill('SIGINT');
    expect(await next.ended).toBe(0);
    expect(await leftIn(home)).toEqual([]);
  });

  it('SIGTERM: pauses what runs; the next daemon resumes it at once, with its memory, programs and uptime', async () => {
    const serve = (): ReturnType<DaemonHome['serve']> => home.serve('-o', 'json', '--pool', '1', '--on-stop', 'pause');
    const first = serve();
    await first.ready();
    const running = await home.says('create', '--timeout', '1h', '--name', 'kept');
    const asleep = await home.says('create');
    await home.says('pause', asleep);
    const inGuest = (script: string): Promise<string> => home.says('exec', running, '--', 'sh', '-c', script);
    const count =
      'n=0; while :; do n=$((n+1)); echo $n > /dev/shm/new; mv /dev/shm/new /dev/shm/count; sleep 0.05; done';
    await home.says('exec', '--detach', running, '--', 'sh', '-c', count);
    expect(await inGuest('echo tulip > /dev/shm/word; stat -f -c %T /dev/shm')).toBe('tmpfs');
    const bootId = await inGuest('cat /proc/sys/kernel/random/boot_id');
    const uptimeS = Number(await inGuest('cut -d" " -f1 /proc/uptime'));
    const inUse = home.there(['exec', running, '--', 'sh', '-c', 'echo started; sleep 600']);
    await inUse.seen('started');
    const session = home.there(['run', '-c', 'import time; print("in session", flush=True); time.sleep(600)']);
    await session.seen('in session');

    first.kill('SIGTERM');
    expect(await first.ended).toBe(0);
    const used = await inUse.result;
    expect(used.status).toBe(125);
    expect(used.stderr).toContain('the daemon stopped while the program was running');
    expect((await session.result).status).toBe(125);
    expect(await leftIn(home)).toEqual([]);

    const next = serve();
    await next.ready();
    const state = async (id: string): Promise<Partial<SandboxInfo> | undefined> =>
      (await list(home)).find((one) => one.id === id);
    // Without a use.
    await expect.poll(async () => (await state(running))?.status, { timeout: 60_000 }).toBe('running');
    expect(await state(running)).toMatchObject({ name: 'kept', pauseReason: null });
    expect(await state(asleep)).toMatchObject({ status: 'paused', pauseReason: null });
    expect(await list(home)).toHaveLength(2);
    expect(await inGuest('cat /proc/sys/kernel/random/boot_id /dev/shm/word')).toBe(`${bootId}\ntulip`);
    expect(Number(await inGuest('cut -d" " -f1 /proc/uptime'))).toBeGreaterThan(uptimeS);
    const counted = Number(await inGuest('cat /dev/shm/count'));
    await expect.poll(async () => Number(await inGuest('cat /dev/shm/count'))).toBeGreaterThan(counted);
    await home.says('rm', '--all');
    next.kill('SIGINT');
    expect(await next.ended).toBe(0);
    expect(await leftIn(home)).toEqual([]);
  });

  it('kill -9: the VMs die with it; the next daemon reports losses and resumes paused sandboxes', async () => {
    const first = home.serve('-o', 'json', '--pool', '1');
    await first.ready();
    const paused = await pausedWithWord(home, 'crocus');
    const lost = await home.says('create');
    expect((await vmmsIn(home.runDir)).length).toBeGreaterThan(0);
    first.kill('SIGKILL');
    expect(await first.ended).toBeNull();
    await expect.poll(() => vmmsIn(home.runDir)).toEqual([]);

    const next = home.serve('-o', 'json', '--pool', '0');
    await next.ready();
    expect(await readdir(home.runDir)).toEqual(['daemon.sock']);
    expect((await list(home)).map(({ id }) => id)).toEqual([paused]);
    const { status, stderr } = await home.there(['exec', lost, '--', 'true']).result;
    expect(stderr).toContain(`sandbox ${lost} has ended: host-lost`);
    expect(status).toBe(125);
    expect(await tellsWord(home, paused)).toBe('crocus');
    next.kill('SIGTERM');
    expect(await next.ended).toBe(0);
    expect(await leftIn(home)).toEqual([]);
  });
});

describe('backup', () => {
  const home = useDaemonHome();

  it('the commands of docs/operations.md bring back pauses, snapshots, keys, quotas and the audit log', async () => {
    const first = home.serve('-o', 'json', '--pool', '0', '--port', '0');
    await first.ready();
    const paused = await pausedWithWord(home, 'peony');
    const source = await home.says('create');
    await home.says('exec', source, '--', 'sh', '-c', 'echo lupin > kept');
    await home.says('snapshot', 'create', source, '--name', 'flower');
    await home.says('key', 'create', '--tenant', 'acme', '--name', 'ci');
    await home.says('tenant', 'set', 'acme', '--sandboxes', '7');
    const keys = await home.says('key', 'ls', '-o', 'json');
    first.kill('SIGTERM');
    expect(await first.ended).toBe(0);

    const archive = `${home.dir}.tar.gz`;
    const page = readFileSync(join(ROOT, 'docs/operations.md'), 'utf8');
    const commands = [...page.matchAll(/^ {4}tar (.*)$/gm)].map(([, words = '']) =>
      words
        .split(' ')
        .map((word) => word.replace('/var/lib/neurovisor', home.dir).replace('neurovisor.tar.gz', archive)),
    );
    expect(commands).toHaveLength(2);
    const [save = [], restore = []] = commands;
    try {
      // Other tests' homes link to the same kernel and image meanwhile, which changes their ctime. tar then ends with 1.
      const { status, stderr } = spawnSync('tar', save, { encoding: 'utf8' });
      expect(stderr.replaceAll(/^tar: \.\/data\/platforms\/[0-9a-f]{64}: file changed as we read it\n/gm, '')).toBe('');
      expect(status).toBeLessThanOrEqual(1);
      for (const name of await readdir(home.dir)) await rm(join(home.dir, name), { recursive: true });
      execFileSync('tar', restore);
    } finally {
      await rm(archive, { force: true });
    }

    const next = home.serve('-o', 'json', '--pool', '0', '--port', '0');
    await next.ready();
    expect((await list(home)).map(({ id }) => id)).toEqual([paused]);
    expect(await tellsWord(home, paused)).toBe('peony');
    const again = await home.says('create', '--snapshot', 'flower');
    expect(await home.says('exec', again, '--', 'cat', 'kept')).toBe('lupin');
    expect(await home.says('key', 'ls', '-o', 'json')).toBe(keys);
    expect(JSON.parse(await home.says('tenant', 'inspect', 'acme', '-o', 'json'))).toMatchObject({
      quotas: { sandboxes: 7 },
    });
    await home.says('audit', 'verify');
    await home.says('rm', '--all');
    next.kill('SIGTERM');
    expect(await next.ended).toBe(0);
  });
});

describe('serve: two at once', () => {
  const home = useDaemonHome();

  it.each(['none was there', 'a killed one left its socket'])('%s: exactly one daemon starts', async (before) => {
    if (before !== 'none was there') {
      const killed = home.serve('-o', 'json', '--pool', '0');
      await killed.ready();
      killed.kill('SIGKILL');
      await killed.ended;
    }
    const both = [1, 2].map(() => home.serve('-o', 'json', '--pool', '0'));
    const outcomes = await Promise.all(both.map((one) => Promise.race([one.ready().then(() => 'ready'), one.ended])));
    expect(outcomes.sort()).toEqual([2, 'ready']);
    const refused = both.map((one) => one.stdout()).find((text) => text.includes('"error"'));
    expect(refused).toContain('a daemon is already running for this home');
    expect(await home.says('host')).toContain('QEMU');
    for (const one of both) one.kill('SIGTERM');
    await Promise.all(both.map(({ ended }) => ended));
    expect(await leftIn(home)).toEqual([]);
  });

  it('the next daemon waits for one that is still shutting down', async () => {
    const first = home.serve('-o', 'json', '--pool', '2');
    await first.ready();
    first.kill('SIGTERM');
    const next = home.serve('-o', 'json', '--pool', '0');
    await next.ready();
    expect(await first.ended).toBe(0);
    expect(await home.says('host')).toContain('QEMU');
  });
});
