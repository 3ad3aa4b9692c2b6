/** `neurovisor events`, `logs`, `inspect`, in this process: output, without control characters of the guest. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { events, inspect, inspectText, logs } from '../../src/cli/commands/history.ts';
import { list } from '../../src/cli/commands/sandboxes.ts';
import { exitStatus } from '../../src/cli/output/program-streams.ts';
import type { ProcessExit } from '../../src/machine/guest/guest.ts';
import { cli as cliOf } from '../support/cli.ts';
import { FakeControlPlane } from '../support/fake-control-plane.ts';
import { startFakeDaemon } from '../support/fake-daemon.ts';
import { testCli } from '../support/test-cli.ts';

const PATIENT = { timeout: 20_000 };

let control: FakeControlPlane;
beforeEach(() => {
  control = new FakeControlPlane();
});
afterEach(async () => {
  await control[Symbol.asyncDispose]();
});

const VICTIM = { pid: 71, name: 'python3\u001b[2J', rssBytes: 100 * 2 ** 20 };

describe('events', () => {
  it('prints a line per event until the sandbox ends', async () => {
    const { cli, stdout } = testCli();
    const { id } = await control.create({});
    const journal = control.journal(id);
    const amount = { source: 'guest', memoryBytes: 100 * 2 ** 20, limitBytes: 150 * 2 ** 20 } as const;
    journal.note({ type: 'pressure', ...amount, some: 40.5, full: 10 });
    journal.note({ type: 'near_oom', ...amount });
    journal.note({ type: 'oom', source: 'guest', victim: VICTIM, detail: '' });
    journal.note({ type: 'dropped', count: 3 });
    journal.note({ type: 'action', action: 'pause', ok: false, detail: 'no\u001b' });
    const over = events(cli, control, id.slice(0, 10), {});
    await control.remove(id);
    expect(await over).toBe(0);
    const lines = stdout().trimEnd().split('\n');
    expect(lines.map((line) => line.slice(26))).toEqual([
      'pressure  guest: 100 MiB of 150 MiB in use; stalled: some 40.5 %, full 10 % of the last 10 s',
      'near_oom  guest: 100 MiB of 150 MiB in use; OOM kill is near',
      'oom       guest: killed python3?[2J (pid 71, 100 MiB)',
      'dropped   3 events dropped',
      'action    pause: failed: no?',
      'end       stopped: removed',
    ]);
    expect(lines[0]).toMatch(/^\d{4}-\d\d-\d\dT/);
  });

  it('prints kept events; -o json: one object per line', async () => {
    const { cli, stdout } = testCli({ json: true });
    const { id } = await control.create({});
    control.journal(id).note({ type: 'dropped', count: 3 });
    control.journal(id).note({ type: 'dropped', count: 4 });
    expect(await events(cli, control, id, { follow: false })).toBe(0);
    const parsed = stdout()
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as object);
    expect(parsed).toMatchObject([
      { type: 'dropped', count: 3, seq: 1 },
      { type: 'dropped', count: 4, seq: 2 },
    ]);
  });
});

describe('logs', () => {
  it('into a file: prints the console unchanged', async () => {
    const { cli, stdout } = testCli();
    const { id } = await control.create({});
    control.logsOf.set(id, { console: 'a\u001b[31m\r\nb', vmm: 'of QEMU\n' });
    expect(await logs(cli, control, id, {})).toBe(0);
    expect(stdout()).toBe('a\u001b[31m\r\nb\n');
  });

  it('on a terminal: replaces control characters', async () => {
    const { cli, stdout } = testCli();
    Object.assign(cli.stdout, { isTTY: true });
    const { id } = await control.create({});
    control.logsOf.set(id, { console: 'a\u001b[31m\r\n\tb\u0007\u202e', vmm: 'of QEMU\n' });
    await logs(cli, control, id, {});
    expect(stdout()).toBe('a?[31m\n\tb??\n');
    await logs(cli, control, id, { vmmLog: true });
    expect(stdout()).toContain('of QEMU\n');
  });
});

describe('logs as a command', () => {
  it('--vmm-log: prints the log of a running VMM', async () => {
    await using daemon = await startFakeDaemon();
    const { id } = await daemon.control.create({});
    daemon.control.logsOf.set(id, { console: 'of the guest\n', vmm: 'of QEMU\n' });
    const { env } = daemon;
    expect(await cliOf(['logs', '--vmm-log', id], { env: { ...env } }).result).toMatchObject({
      status: 0,
      stdout: 'of QEMU\n',
      stderr: '',
    });
  });

  it('-f: prints kept and new output until the sandbox ends', async () => {
    await using daemon = await startFakeDaemon();
    const { id } = await daemon.control.create({});
    const { console, vmm } = daemon.control.tails(id);
    console.push(Buffer.from('boot\n'));
    const follow = cliOf(['logs', '-f', id], { env: { ...daemon.env } });
    await expect.poll(() => console.readers, PATIENT).toBe(1);
    vmm.push(Buffer.from('of QEMU\n'));
    await daemon.control.remove(id);
    expect(await follow.result).toMatchObject({ status: 0, stdout: 'boot\n[vmm] of QEMU\n', stderr: '' });
  });
});

describe('logs -f', () => {
  it('prints the console and lines of the VMM until the sandbox ends', async () => {
    const { cli, stdout, stderr } = testCli();
    const { id } = await control.create({});
    const { console, vmm } = control.tails(id);
    console.push(Buffer.from('x'.repeat(64 * 1024 + 5)));
    vmm.push(Buffer.from('of QEMU\n'));
    const over = logs(cli, control, id, { follow: true });
    await expect.poll(stdout, PATIENT).toContain('[vmm] of QEMU\n');
    console.push(Buffer.from('last words'));
    await control.remove(id);
    expect(await over).toBe(0);
    expect(stdout()).toMatch(/x\n\[vmm\] of QEMU\n[\s\S]*last words\n$/);
    expect(stderr()).toContain('skipped 5 B of the console: output too fast');
  });

  it('--vmm-log: prints only the VMM; -o json: one chunk per line', async () => {
    const { id } = await control.create({});
    control.tails(id).console.push(Buffer.from('of the guest\n'));
    control.tails(id).vmm.push(Buffer.from('of QEMU\n'));
    const [plain, json] = [testCli(), testCli({ json: true })];
    const both = [
      logs(plain.cli, control, id, { follow: true, vmmLog: true }),
      logs(json.cli, control, id, { follow: true }),
    ];
    await expect.poll(json.stdout, PATIENT).toContain('of QEMU');
    await expect.poll(plain.stdout, PATIENT).toContain('of QEMU');
    await control.remove(id);
    expect(await Promise.all(both)).toEqual([0, 0]);
    expect(plain.stdout()).toBe('of QEMU\n');
    const lines = json.stdout().trimEnd().split('\n');
    expect(lines.map((line) => JSON.parse(line) as object)).toMatchObject([
      { source: 'console', text: 'of the guest\n' },
      { source: 'vmm', text: 'of QEMU\n' },
    ]);
  });
});

describe('inspect, ls -a', () => {
  it('shows cause and evidence of an ended sandbox', async () => {
    const { cli, stdout } = testCli();
    const { id } = await control.create({ metadata: { user: '7' } });
    await control.crash(id, 'guest-oom', 'Out of memory: compulsory panic_on_oom is enabled');
    expect(await inspect(cli, control, id)).toBe(0);
    expect(stdout()).toContain('guest-oom: Out of memory: compulsory panic_on_oom is enabled');
    expect(stdout()).toContain('user=7');
    await list(cli, control, { all: true, label: [] });
    expect(stdout()).toContain('ended (guest-oom)');
  });

  it('shows for which models prompts may leave the host', async () => {
    const local = await control.get((await control.create({})).id);
    expect(inspectText(local, 0)).toMatch(/^hosted models +none$/m);
    const models = { allow: ['qwen3', 'gpt-5-mini'], allowHosted: ['gpt-5-mini'] };
    const hosted = await control.get((await control.create({ models })).id);
    expect(inspectText(hosted, 0)).toMatch(/^hosted models +gpt-5-mini$/m);
    expect(inspectText(hosted, 0)).toMatch(/^models +qwen3, gpt-5-mini$/m);
  });

  it('shows the last system call that the seccomp filter refused', async () => {
    const { id } = await control.create({});
    await control.crash(id, 'seccomp-violation', 'its filter refused the VMM’s system call');
    const info = await control.get(id);
    if (info.end === null) throw new Error('it has not ended');
    const { atMs, evidence } = info.end;
    const call = { count: 1, syscall: 272, name: 'unshare', address: '0x7f01', atMs };
    const told = (more: object): string => {
      const lastViolation = { ...call, action: 'refused' as const, ...more };
      const end = { ...info.end, evidence: { ...evidence, lastViolation } };
      return inspectText({ ...info, end } as typeof info, atMs);
    };
    expect(told({})).toMatch(/1 refused by the filter, last .* ago: unshare \(272\) at 0x7f01/);
    expect(told({ name: null, address: null })).toMatch(/ago: 272$/m);
    expect(inspectText(info, atMs)).not.toContain('filter, last');
  });
});

describe('exitStatus', () => {
  const KILLED: ProcessExit = {
    exitCode: null,
    signal: 'SIGKILL',
    timedOut: false,
    oomKilled: true,
    truncated: false,
    oomVictim: { ...VICTIM, name: 'python3' },
    durationMs: 1,
  };

  it('reports an OOM kill with the process and its memory', () => {
    const { cli, stderr } = testCli();
    expect(exitStatus(cli, KILLED, 'the script')).toBe(137);
    expect(stderr()).toBe(
      'neurovisor: the script was killed: the sandbox ran out of memory ' +
        '(python3, pid 71, 100 MiB); increase --memory\n',
    );
  });

  it('reports an OOM-killed child only if the program failed', () => {
    const { cli, stderr } = testCli();
    const lost = { ...KILLED, signal: null, oomKilled: false };
    expect(exitStatus(cli, { ...lost, exitCode: 3 }, 'the script')).toBe(3);
    expect(stderr()).toBe(
      'neurovisor: a process of the script was killed: the sandbox ran out of memory ' + '(python3, pid 71, 100 MiB)\n',
    );
    expect(exitStatus(cli, { ...lost, exitCode: 0 }, 'the script')).toBe(0);
    expect(stderr().split('\n')).toHaveLength(2);
  });
});
