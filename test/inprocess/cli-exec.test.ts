/** `exec` and `run` with a daemon, in this process, on real guest agents. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ClientError } from '../../src/api/client/errors.ts';
import { attach, exec } from '../../src/cli/commands/exec.ts';
import type { LogsFlags } from '../../src/cli/commands/history.ts';
import { processes } from '../../src/cli/commands/host.ts';
import { checkLogs, programLogs, wait } from '../../src/cli/commands/program-logs.ts';
import { runInDaemon } from '../../src/cli/commands/run/daemon.ts';
import type { RunFlags } from '../../src/cli/commands/run/job.ts';
import { endAfterLoss } from '../../src/cli/output/loss.ts';
import { GuestError } from '../../src/machine/guest/errors.ts';
import type { OutputOffsets, ProcessExit } from '../../src/machine/guest/guest.ts';
import type { CreateRequest, SandboxInfo } from '../../src/sandbox/contract/control.ts';
import { eventually } from '../support/eventually.ts';
import { FakeControlPlane } from '../support/fake-control-plane.ts';
import { EXIT } from '../support/process-exit.ts';
import { testCli } from '../support/test-cli.ts';

const NO_FLAGS = { env: [] };
const SLEEPER = 'echo started; exec sleep 600';

/** Reports a full host disk as the control plane does. */
async function fillHost(control: FakeControlPlane, id: string): Promise<void> {
  const journal = control.journal(id);
  journal.note({ type: 'disk_full', path: '/run/disk.ext4', freeBytes: 0 });
  await control.pause(id, 'memory');
  journal.note({ type: 'action', action: 'pause', ok: true, detail: '' });
}
const usage = expect.objectContaining({ code: 'usage' });

describe('exec', () => {
  let control: FakeControlPlane;
  let id: string;

  beforeAll(async () => {
    control = new FakeControlPlane();
    ({ id } = await control.create({ env: { COLOUR: 'green' } }));
  });
  afterAll(async () => {
    await control[Symbol.asyncDispose]();
  });

  it('forwards streams, environment and exit status', async () => {
    const { cli, stdout, stderr } = testCli({ stdin: '' });
    const script = 'echo "$COLOUR $SHAPE"; echo oops >&2; exit 7';
    const flags = { env: ['SHAPE=round'] };
    expect(await exec(cli, control, id.slice(0, 8), ['sh', '-c', script], flags)).toBe(7);
    expect([stdout(), stderr()]).toEqual(['green round\n', 'oops\n']);
  });

  it('-c: runs Python with arguments; a signal exits with 128+n', async () => {
    const { cli, stdout } = testCli({ stdin: '' });
    const code = 'import sys; print(sys.argv[1:])';
    expect(await exec(cli, control, id, ['a b', '-x'], { ...NO_FLAGS, code })).toBe(0);
    expect(stdout()).toBe("['a b', '-x']\n");
    const kill = ['sh', '-c', 'kill -TERM $$'];
    expect(await exec(testCli({ stdin: '' }).cli, control, id, kill, NO_FLAGS)).toBe(143);
  });

  it('exits with 127 for a missing program, 126 for a non-executable one, otherwise fails', async () => {
    const { cli, stderr } = testCli({ stdin: '' });
    expect(await exec(cli, control, id, ['no-such-program'], NO_FLAGS)).toBe(127);
    expect(stderr()).toContain("program 'no-such-program': No such file or directory");
    const dir = await control.dirOf(id);
    expect(await exec(testCli({ stdin: '' }).cli, control, id, [dir], NO_FLAGS)).toBe(126);
    const nowhere = { ...NO_FLAGS, workdir: '/nowhere' };
    await expect(exec(testCli({ stdin: '' }).cli, control, id, ['true'], nowhere)).rejects.toMatchObject({
      code: 'not_found',
    });
    const json = testCli({ stdin: '', json: true });
    expect(await exec(json.cli, control, id, ['no-such-program'], NO_FLAGS)).toBe(127);
    expect(JSON.parse(json.stdout())).toMatchObject({ error: { code: 'not_found' } });
  });

  it('a failure that an option cures names it, after the output; -o json stays as it is', async () => {
    const code = 'raise MemoryError';
    const failed = testCli({ stdin: '' });
    expect(await exec(failed.cli, control, id, [], { ...NO_FLAGS, code })).toBe(1);
    const hint = 'neurovisor: the program needs more memory; create the sandbox with: a larger --memory\n';
    expect(failed.stderr()).toMatch(new RegExp(`MemoryError\n${hint}$`));
    const json = testCli({ stdin: '', json: true });
    await exec(json.cli, control, id, [], { ...NO_FLAGS, code });
    expect([json.stdout(), json.stderr()]).toEqual([expect.not.stringContaining('--memory'), '']);
    const git = testCli({ stdin: '' });
    expect(await exec(git.cli, control, id, ['git'], { env: ['PATH=/nowhere'] })).toBe(127);
    expect(git.stderr()).toContain('fix: the built-in system has no git; create the sandbox with: --template base\n');
  });

  it('forwards standard input and its end', async () => {
    const { cli, stdout } = testCli({ stdin: 'hello\nworld\n' });
    expect(await exec(cli, control, id, ['tr', 'a-z', 'A-Z'], NO_FLAGS)).toBe(0);
    expect(stdout()).toBe('HELLO\nWORLD\n');
  });

  it('--workdir sets the directory, --timeout kills the program', async () => {
    const dir = await control.dirOf(id);
    const { cli, stdout } = testCli({ stdin: '' });
    await exec(cli, control, id, ['pwd'], { ...NO_FLAGS, workdir: dir });
    expect(stdout()).toBe(`${dir}\n`);
    const slow = testCli({ stdin: '' });
    const flags = { ...NO_FLAGS, timeout: '200ms' };
    expect(await exec(slow.cli, control, id, ['sleep', '600'], flags)).toBe(124);
    expect(slow.stderr()).toContain('exceeded its time limit');
  });

  it('-o json: prints one object with output and exit', async () => {
    const { cli, stdout } = testCli({ stdin: '', json: true });
    expect(await exec(cli, control, id, ['sh', '-c', 'echo x; exit 3'], NO_FLAGS)).toBe(3);
    expect(JSON.parse(stdout())).toMatchObject({
      sandbox: id,
      pid: expect.any(Number),
      exit: { exitCode: 3 },
      stdout: 'x\n',
      stderr: '',
    });
  });

  it('-o json: output that is not UTF-8 is base64', async () => {
    const { cli, stdout } = testCli({ stdin: '', json: true });
    const argv = ['sh', '-c', String.raw`printf '\377\000a'; echo é >&2`];
    expect(await exec(cli, control, id, argv, NO_FLAGS)).toBe(0);
    expect(JSON.parse(stdout())).toMatchObject({
      stdout: Buffer.from([0xff, 0, 0x61]).toString('base64'),
      stderr: 'é\n',
      encoding: { stdout: 'base64', stderr: 'utf8' },
    });
  });

  it('the first Ctrl-C goes to the program, the second kills it', async () => {
    const { cli, seen, stdout } = testCli();
    const script = 'trap "echo caught" INT; echo started; while :; do sleep 0.05; done';
    const running = exec(cli, control, id, ['sh', '-c', script], NO_FLAGS);
    await seen('started');
    cli.handleSignal('SIGINT');
    await seen('caught');
    cli.handleSignal('SIGINT');
    await expect(running).rejects.toMatchObject({ code: 'cancelled' });
    expect(cli.signalStatus).toBe(130);
    expect(stdout()).toBe('started\ncaught\n');
    const guest = await control.guest(id);
    await expect.poll(async () => (await guest.processes()).filter(({ argv }) => argv.includes(script))).toEqual([]);
  });

  it('a closed output, as for `| head -1`, ends the program with 141, even if it ignores signals', async () => {
    for (const script of ['while :; do echo y; done', 'trap "" PIPE TERM INT; while :; do echo y; done']) {
      const { cli, seen, stderr } = testCli();
      const running = exec(cli, control, id, ['sh', '-c', script], NO_FLAGS);
      await seen('y');
      cli.stdout.destroy(Object.assign(new Error('write EPIPE'), { code: 'EPIPE' }));
      await expect(running).rejects.toMatchObject({ code: 'cancelled' });
      expect([cli.signalStatus, stderr()]).toEqual([141, '']);
      const guest = await control.guest(id);
      await expect.poll(async () => (await guest.processes()).filter(({ argv }) => argv.includes(script))).toEqual([]);
    }
  });

  it('reports a sandbox that ends or is paused under the program', async () => {
    const other = await control.create({});
    const ended = testCli();
    const running = exec(ended.cli, control, other.id, ['sh', '-c', SLEEPER], NO_FLAGS);
    await ended.seen('started');
    await control.remove(other.id);
    expect(await running).toBe(125);
    expect(ended.stderr()).toContain('the sandbox ended before the program did: stopped');
    const info = { ...other, status: 'paused', pausedTo: 'disk', end: null } as const;
    const lost = new Error('the connection ended');
    await expect(endAfterLoss(testCli().cli, { get: async () => info }, other.id, lost)).rejects.toMatchObject({
      code: 'not_ready',
      remedy: expect.stringContaining(other.id),
    });
    const get = async (): Promise<never> => {
      throw new ClientError('daemon_unreachable', 'no daemon', { remedy: 'start one' });
    };
    await expect(endAfterLoss(testCli().cli, { get }, other.id, lost)).rejects.toMatchObject({
      code: 'daemon_unreachable',
      message: expect.stringContaining('the daemon stopped while the program was running'),
      remedy: expect.stringMatching(`^start one; .*${other.id}`),
    });
  });

  it('--detach: prints the pid and leaves the program running', async () => {
    const { cli, stdout } = testCli();
    const flags = { ...NO_FLAGS, detach: true };
    expect(await exec(cli, control, id, ['sleep', '600'], flags)).toBe(0);
    const pid = Number(stdout());
    const guest = await control.guest(id);
    const found = (await guest.processes()).find((one) => one.pid === pid);
    expect(found).toMatchObject({ argv: ['sleep', '600'], detached: true });
    await guest.signal(pid, 'SIGKILL');
  });

  it('attach: follows a detached program to its exit status; a signal leaves it running', async () => {
    const started = testCli();
    const go = join(await control.dirOf(id), 'go');
    const script = `while [ ! -e '${go}' ]; do echo tick; sleep 0.05; done; echo err >&2; exit 7`;
    await exec(started.cli, control, id, ['sh', '-c', script], { ...NO_FLAGS, detach: true });
    const pid = started.stdout().trim();
    const left = testCli();
    const leaving = attach(left.cli, control, id.slice(0, 8), pid);
    await eventually(() => expect(left.stdout()).toContain('tick\n'));
    left.cli.handleSignal('SIGINT');
    expect(await leaving).toBe(0);
    expect(left.stderr()).toBe('detached; the program continues\n');
    const again = testCli();
    const attached = attach(again.cli, control, id, pid);
    await eventually(() => expect(again.stdout()).toContain('tick\n'));
    await writeFile(go, '');
    expect(await attached).toBe(7);
    expect(again.stderr()).toBe('err\n');
    await expect(attach(testCli().cli, control, id, pid)).rejects.toMatchObject({ code: 'not_found' });
    await expect(attach(testCli().cli, control, id, 'x')).rejects.toThrow(usage);
  });

  const detach = async (script: string): Promise<string> => {
    const started = testCli();
    await exec(started.cli, control, id, ['sh', '-c', script], { ...NO_FLAGS, detach: true });
    return started.stdout().trim();
  };

  it('logs and wait: what a detached program wrote and its status, also after its end', async () => {
    const go = join(await control.dirOf(id), 'go-logs');
    const pid = await detach(
      `printf 'a\\nb\\nc\\n'; echo err >&2; while [ ! -e '${go}' ]; do sleep 0.05; done; echo end; exit 7`,
    );
    const waiting = testCli();
    const waited = wait(waiting.cli, control, id, pid);
    const left = testCli();
    const leaving = programLogs(left.cli, control, id, pid, { follow: true });
    await eventually(() => expect([left.stdout(), left.stderr()]).toEqual(['a\nb\nc\n', 'err\n']));
    left.cli.handleSignal('SIGINT');
    expect(await leaving).toBe(0);
    const following = testCli();
    const followed = programLogs(following.cli, control, id, pid, { follow: true, tail: 1 });
    await eventually(() => expect(following.stdout()).toBe('c\n'));
    const running = testCli();
    expect(await programLogs(running.cli, control, id, pid, {})).toBe(0);
    expect([running.stdout(), running.stderr()]).toEqual(['a\nb\nc\n', 'err\n']);
    await writeFile(go, '');
    expect([await waited, waiting.stdout()]).toEqual([7, '7\n']);
    expect([await followed, following.stdout(), following.stderr()]).toEqual([0, 'c\nend\n', 'err\n']);
    const tail = testCli();
    await programLogs(tail.cli, control, id, pid, { tail: 2 });
    expect(tail.stdout()).toBe('c\nend\n');
    const json = testCli({ json: true });
    await programLogs(json.cli, control, id, pid, {});
    expect(JSON.parse(json.stdout())).toMatchObject({ pid: Number(pid), stdout: 'a\nb\nc\nend\n', stderr: 'err\n' });
    expect(await wait(testCli().cli, control, id, pid)).toBe(7);
    const [some, all] = [testCli(), testCli()];
    await processes(some.cli, control, id);
    await processes(all.cli, control, id, true);
    const line = new RegExp(`^${pid} .*detached ended \\(7\\)`, 'm');
    expect([line.test(some.stdout()), line.test(all.stdout())]).toEqual([false, true]);
  });

  it('logs -f: continues at its offset when the guest drops a reader that fell behind', async () => {
    const output = (stdout: number, text: string, exit: Promise<ProcessExit>) => ({
      from: { stdout, stderr: 0 },
      stdout: Readable.from([Buffer.from(text)]),
      stderr: Readable.from([]),
      exit,
    });
    const lost = Promise.reject(new GuestError('connection_lost', 'the connection to the guest ended'));
    lost.catch(() => undefined);
    const outputs = [output(0, 'one\n', lost), output(100, 'two\n', Promise.resolve(EXIT))];
    const asked: unknown[] = [];
    const logs = async (_pid: number, from: OutputOffsets): Promise<unknown> => {
      asked.push({ ...from });
      return outputs.shift();
    };
    const { get } = control;
    const fake = { get: get.bind(control), list: control.list.bind(control), guest: async () => ({ logs }) };
    const { cli, stdout, stderr } = testCli();
    expect(await programLogs(cli, fake as unknown as FakeControlPlane, id, '5', { follow: true })).toBe(0);
    expect(asked).toEqual([
      { stdout: 0, stderr: 0 },
      { stdout: 4, stderr: 0 },
    ]);
    expect([stdout(), stderr()]).toEqual(['one\ntwo\n', 'neurovisor: 96 B of stdout are no longer kept\n']);
  });

  it('logs: tells how much is no longer kept', async () => {
    const pid = await detach('yes | head -c 300000');
    await wait(testCli().cli, control, id, pid);
    const late = testCli();
    await programLogs(late.cli, control, id, pid, {});
    expect(late.stdout()).toBe('y\n'.repeat(32 * 1024));
    expect(late.stderr()).toBe('neurovisor: 229 KiB of stdout are no longer kept\n');
    const few = testCli();
    await programLogs(few.cli, control, id, pid, { tail: 1 });
    expect([few.stdout(), few.stderr()]).toEqual(['y\n', '']);
  });

  it.each<[string, string | undefined, LogsFlags]>([
    ['--tail without a PID', undefined, { tail: 1 }],
    ['--vmm-log with a PID', '5', { vmmLog: true }],
    ['a PID that is none', 'x', {}],
  ])('logs: %s is refused', (_what, pid, flags) => {
    expect(() => checkLogs(testCli().cli, pid, flags)).toThrow(usage);
  });

  it('logs and wait: an unknown PID is not found', async () => {
    for (const command of [wait, programLogs]) {
      await expect(command(testCli().cli, control, id, '4000000', {})).rejects.toMatchObject({ code: 'not_found' });
    }
  });

  it.each([
    ['no program', [], NO_FLAGS],
    ['a terminal that is none', ['true'], { ...NO_FLAGS, tty: true }],
    ['a detached program with input', ['true'], { ...NO_FLAGS, detach: true, interactive: true }],
    ['a bad time', ['true'], { ...NO_FLAGS, timeout: 'soon' }],
  ])('%s is refused before anything runs', async (_what, argv, flags) => {
    await expect(exec(testCli().cli, control, id, argv, flags)).rejects.toThrow(usage);
  });

  it('reports a sandbox that is paused because the host disk is full, and keeps waiting', async () => {
    const own = (await control.create({})).id;
    const { cli, seen, stderr } = testCli({ stdin: '' });
    const running = exec(cli, control, own, ['sh', '-c', SLEEPER], NO_FLAGS);
    await seen('started');
    await fillHost(control, own);
    await eventually(() =>
      expect(stderr()).toBe(
        `neurovisor: the sandbox is paused: the host's file system that holds /run/disk.ext4 is full ` +
          `(0 bytes are free); free space, then continue with: neurovisor resume ${own}\n`,
      ),
    );
    await control.resume(own);
    await control.remove(own);
    expect(await running).toBe(125);
  });

  it('a signal ends it at once where a full disk paused the sandbox, and resumes nothing', async () => {
    const own = (await control.create({})).id;
    const { cli, seen } = testCli({ stdin: '' });
    const script = 'trap "" TERM; echo started; while :; do sleep 0.05; done';
    const running = exec(cli, control, own, ['sh', '-c', script], NO_FLAGS);
    await seen('started');
    await fillHost(control, own);
    cli.handleSignal('SIGTERM');
    await expect(running).rejects.toMatchObject({ code: 'cancelled' });
    // Not by the end of the grace that a running program gets.
    expect([cli.signalStatus, cli.cancelled.aborted]).toEqual([143, false]);
    expect(await control.get(own)).toMatchObject({ status: 'paused', pausedTo: 'memory' });
    await control.remove(own);
  });

  it('rejects an unknown ID', async () => {
    const { cli } = testCli({ stdin: '' });
    await expect(exec(cli, control, 'zzz', ['true'], NO_FLAGS)).rejects.toThrow(usage);
    await expect(exec(cli, control, 'z'.repeat(20), ['true'], NO_FLAGS)).rejects.toMatchObject({ code: 'not_found' });
  });
});

describe('run with a daemon', () => {
  const flags: RunFlags = {
    env: [],
    copy: [],
    out: [],
    warm: [],
    alias: [],
    allowModel: [],
    allowOut: [],
    denyOut: [],
  };
  const job = (code: string, more: Partial<RunFlags> = {}, args: string[] = []) => ({
    script: { code, filename: '<string>', path: null, project: null },
    args,
    flags: { ...flags, ...more },
    program: null,
    outs: [],
    requirements: [],
  });

  it('requests the packages of the job, and says that they take long', async () => {
    const asked: CreateRequest[] = [];
    await using control = new (class extends FakeControlPlane {
      override async create(request: CreateRequest, signal?: AbortSignal): Promise<SandboxInfo> {
        asked.push(request);
        await sleep(1_100);
        return await super.create(request, signal);
      }
    })();
    const { cli, stderr } = testCli({ stdin: '' });
    const wanted = { ...job('print(1)'), requirements: ['pandas', 'rich>=13'] };
    expect(await runInDaemon(cli, control, wanted)).toBe(0);
    expect(asked).toEqual([expect.objectContaining({ requirements: wanted.requirements })]);
    expect(stderr()).toContain('Install the packages into a template (built once)');
  });

  it('forwards output, arguments, environment and exit status, and removes the sandbox', async () => {
    await using control = new FakeControlPlane();
    const { cli, stdout, stderr } = testCli({ stdin: 'typed', env: { HERE: 'value' } });
    const code = `
import os, sys
print('out', sys.argv[1:], os.environ['HERE'], sys.stdin.read())
print('err', file=sys.stderr)
sys.exit(7)
`;
    expect(await runInDaemon(cli, control, job(code, { env: ['HERE'] }, ['--flag', 'x y']))).toBe(7);
    expect([stdout(), stderr()]).toEqual(["out ['--flag', 'x y'] value typed\n", 'err\n']);
    expect(await control.list()).toEqual([]);
  });

  it('--name: is the name of its sandbox', async () => {
    const asked: CreateRequest[] = [];
    await using control = new FakeControlPlane({ beforeCreate: (request) => void asked.push(request) });
    expect(await runInDaemon(testCli({ stdin: '' }).cli, control, job('print(1)', { name: 'web' }))).toBe(0);
    expect(asked).toMatchObject([{ name: 'web' }]);
  });

  it('-o json: prints the same object as without a daemon', async () => {
    await using control = new FakeControlPlane();
    const { cli, stdout } = testCli({ stdin: '', json: true });
    expect(await runInDaemon(cli, control, job('print("x"); raise SystemExit(3)'))).toBe(3);
    const report = JSON.parse(stdout());
    expect(Object.keys(report)).toEqual([
      'sandbox',
      'accelerator',
      'exit',
      'end',
      'stdout',
      'stderr',
      'encoding',
      'truncated',
      'phases',
      'usage',
      'cassette',
      'out',
      'sync',
    ]);
    expect(report).toMatchObject({ exit: { exitCode: 3 }, end: null, stdout: 'x\n', usage: [] });
    const names = report.phases.map((phase: { name: string }) => phase.name);
    expect(names).toEqual(['claim', 'script start', 'first output', 'script']);
  });

  it('a program instead of a script: its output, standard input and exit status', async () => {
    await using control = new FakeControlPlane();
    const { cli, stdout } = testCli({ stdin: 'typed' });
    const words = ['-c', 'cat; echo " $0 $1"; exit 3', 'a', 'b'];
    const program = { ...job(''), script: null, program: { words, entrypoint: 'sh' } };
    expect(await runInDaemon(cli, control, program)).toBe(3);
    expect(stdout()).toBe('typed a b\n');
    expect(await control.list()).toEqual([]);
  });

  it('a missing program: 127, and the sandbox is removed', async () => {
    await using control = new FakeControlPlane();
    const { cli, stderr } = testCli({ stdin: '' });
    const program = { words: ['/no/such/program'], entrypoint: undefined };
    expect(await runInDaemon(cli, control, { ...job(''), script: null, program })).toBe(127);
    expect(stderr()).toContain('/no/such/program');
    expect(await control.list()).toEqual([]);
  });

  it('an image that names no program: a usage error that says how to name one', async () => {
    await using control = new FakeControlPlane();
    const { cli } = testCli({ stdin: '' });
    const program = { words: [], entrypoint: undefined };
    const running = runInDaemon(cli, control, { ...job(''), script: null, program });
    await expect(running).rejects.toMatchObject({ message: 'the image names no program to run' });
    expect(await control.list()).toEqual([]);
  });

  it('--timings: prints a table on stderr', async () => {
    await using control = new FakeControlPlane();
    const { cli, stderr } = testCli({ stdin: '' });
    await runInDaemon(cli, control, job('print(1)', { timings: true }));
    expect(stderr()).toMatch(/^claim +6 ms/m);
    expect(stderr()).toContain('on none (agents as processes)');
  });

  it('Ctrl-C lets the script end by itself; SIGTERM ends it with 143', async () => {
    await using control = new FakeControlPlane();
    const code = `
import time
try:
    print('started', flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    raise SystemExit(130)
`;
    const first = testCli();
    const running = runInDaemon(first.cli, control, job(code));
    await first.seen('started');
    first.cli.handleSignal('SIGINT');
    expect(await running).toBe(130);

    const second = testCli();
    const ended = runInDaemon(second.cli, control, job(code));
    await second.seen('started');
    second.cli.handleSignal('SIGTERM');
    expect(await ended).toBe(143);
    expect(await control.list()).toEqual([]);
  });

  it('a full host disk removes the sandbox, with the cause and 125', async () => {
    await using control = new FakeControlPlane();
    const { cli, seen, stderr } = testCli();
    const running = runInDaemon(cli, control, job('print(1, flush=True)\nwhile True: pass'));
    await seen('1');
    const [sandbox] = await control.list();
    await fillHost(control, sandbox?.id ?? '');
    expect(await running).toBe(125);
    expect(stderr()).toMatch(/host-disk-full: .*\/run\/disk\.ext4 is full/);
    expect(await control.list()).toEqual([]);
  });

  it('a sandbox that ends under its script exits with its cause and 125', async () => {
    await using control = new FakeControlPlane();
    const { cli, seen, stderr } = testCli();
    const running = runInDaemon(cli, control, job('print(1, flush=True)\nwhile True: pass'));
    await seen('1');
    const [sandbox] = await control.list();
    await control.remove(sandbox?.id ?? '');
    expect(await running).toBe(125);
    expect(stderr()).toContain('the sandbox ended before the script did: stopped');
  });

  it('a daemon that stops under its script is reported', async () => {
    const gone = new Error('the daemon is gone');
    let isGone = false;
    await using control = new FakeControlPlane({
      before: (method) => {
        if (isGone && method !== 'list') throw gone;
      },
    });
    const { cli, seen, stderr } = testCli();
    const running = runInDaemon(cli, control, job('print(1, flush=True)\nwhile True: pass'));
    await seen('1');
    const [sandbox] = await control.list();
    const { id = '' } = sandbox ?? {};
    const { pid } = (await (await control.guest(id)).processes())[0] ?? {};
    isGone = true;
    process.kill(await agentOf(pid ?? 0), 'SIGKILL');
    await expect(running).rejects.toBe(gone);
    expect(stderr()).toContain('it ends with this command');
    isGone = false;
    // In a VM, the program would end with the agent.
    process.kill(pid ?? 0, 'SIGKILL');
  });
});

/** The agent under which a program runs. */
async function agentOf(pid: number): Promise<number> {
  const { readFile } = await import('node:fs/promises');
  const parentOf = async (child: number): Promise<number> =>
    Number(/^PPid:\s*(\d+)$/m.exec(await readFile(`/proc/${child}/status`, 'utf8'))?.[1]);
  let current = pid;
  for (;;) {
    const parent = await parentOf(current);
    if (parent === process.pid || parent <= 1) return current;
    current = parent;
  }
}
