/** `neurovisor` as a process, on a daemon at its socket: arguments, streams, exit status. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import type { SandboxEventBody } from '../../src/sandbox/contract/events.ts';
import { makeAuthority } from '../support/certificate-authority.ts';
import { cli, ROOT } from '../support/cli.ts';
import { type FakeDaemon, startFakeDaemon } from '../support/fake-daemon.ts';
import { startCollector } from '../support/otlp-collector.ts';

let daemon: FakeDaemon;

beforeAll(async () => {
  daemon = await startFakeDaemon();
});
afterAll(async () => {
  await daemon[Symbol.asyncDispose]();
});

const there = (args: readonly string[], options: { input?: string } = {}) => cli(args, { env: daemon.env, ...options });

describe('commands on a daemon', () => {
  it('create, exec, ls, pause, fork, snapshot and rm work on one sandbox', async () => {
    const created = await there(['create', '-l', 'user=42', '--timeout', '1h']).result;
    expect(created.stderr).toBe('taken from the pool in 6 ms\n');
    const id = created.stdout.trim();
    const short = id.slice(0, 8);
    const shout = there(['exec', short, '--', 'sh', '-c', 'tr a-z A-Z; exit 3'], { input: 'hi' });
    expect(await shout.result).toMatchObject({ status: 3, stdout: 'HI', stderr: '' });
    const code = 'import sys; print(sys.argv[1:], file=sys.stderr)';
    expect(await there(['exec', short, '-c', code, '--', 'a', '-b']).result).toMatchObject({
      status: 0,
      stderr: "['a', '-b']\n",
    });
    expect((await there(['pause', short]).result).stdout).toBe(`${id}\n`);
    expect((await there(['ls', '-a', '-l', 'user=42']).result).stdout).toContain('paused (disk)');
    expect((await there(['resume', short]).result).status).toBe(0);
    const kept = await there(['snapshot', 'create', short, '--name', 'ready']).result;
    expect(kept.stdout).toMatch(/^[a-z0-9]{20}\n$/);
    const forks = await there(['fork', short, '--count', '2', '-o', 'json']).result;
    expect(JSON.parse(forks.stdout)).toMatchObject([{ ok: true }, { ok: true }]);
    expect((await there(['snapshot', 'rm', 'ready']).result).status).toBe(0);
    expect((await there(['rm', '--all']).result).stdout.trim().split('\n')).toHaveLength(3);
    expect(await daemon.control.list()).toEqual([]);
  });

  it('`| head -1` ends exec, run, events and ls with 141 and no message', async () => {
    const id = (await there(['create']).result).stdout.trim();
    const into = (reader: string, ...args: string[]) => pipedInto(reader, args, daemon.env);
    const ended = { status: 141, stdout: 'y\n', stderr: '' };
    expect(await into('| head -1', 'exec', id, '--', 'yes')).toEqual(ended);
    const onStderr = ['exec', id, '--', 'sh', '-c', 'yes >&2'];
    expect(await into('2>&1 | head -1', ...onStderr)).toEqual(ended);
    expect(await into('| head -1', 'run', '-c', 'while True: print("y")')).toEqual(ended);
    const flood = setInterval(() => {
      daemon.control.journal(id).note({ type: 'dropped', count: 1 });
    }, 10);
    expect(await into('| head -1', 'events', '-f', id)).toMatchObject({ status: 141, stderr: '' });
    clearInterval(flood);
    expect(await into('| true', 'ls')).toEqual({ ...ended, stdout: '' });
    expect((await daemon.control.list()).map((one) => one.id)).toEqual([id]);
    await daemon.control.remove(id);
  });

  it('events -f follows a sandbox until its end or Ctrl-C; inspect and exec report the end', async () => {
    const created = await there(['create', '--on-memory-pressure', 'pause']).result;
    const id = created.stdout.trim();
    const note = (): void =>
      daemon.control.journal(id).note({ type: 'near_oom', source: 'guest', memoryBytes: 1 << 20, limitBytes: 2 << 20 });
    note();
    const [left, whole] = [there(['events', '-f', id]), there(['events', '-f', id, '-o', 'json'])];
    await Promise.all([left.seen('near_oom'), whole.seen('"seq":1')]);
    left.kill('SIGINT');
    expect((await left.result).status).toBe(0);
    note();
    await whole.seen('"seq":2');
    await daemon.control.crash(id, 'guest-oom', 'Out of memory');
    const { status, stdout } = await whole.result;
    expect(status).toBe(0);
    const types = stdout
      .trimEnd()
      .split('\n')
      .map((line) => (JSON.parse(line) as { type: string }).type);
    expect(types).toEqual(['near_oom', 'near_oom', 'end']);
    expect((await there(['inspect', id.slice(0, 8)]).result).stdout).toContain('guest-oom: Out of memory');
    expect((await there(['logs', id]).result).stdout).toBe('booted\n');
    const refused = await there(['create', '--on-memory-pressure', 'grow']).result;
    expect([refused.status, refused.stderr]).toEqual([2, expect.stringContaining('--memory-max')]);
  });

  it('create --memory-max, update --memory: inspect shows both, events each step', async () => {
    const words = ['--memory', '256M', '--memory-max', '1G', '--on-memory-pressure', 'grow'];
    const created = await there(['create', ...words]).result;
    expect(created).toMatchObject({ status: 0 });
    const id = created.stdout.trim();
    const size = async (): Promise<string> => (await there(['inspect', id]).result).stdout;
    expect(await size()).toContain('256 of 1024 MiB');
    await there(['update', id, '--memory', '512M']).result;
    expect(await size()).toContain('512 of 1024 MiB');
    const resized = { type: 'resized', by: 'pressure', fromMib: 512, toMib: 768, durationMs: 9 };
    daemon.control.journal(id).note(resized as SandboxEventBody);
    const { stdout } = await there(['events', id]).result;
    expect(stdout).toContain('from 512 to 768 MiB in 9 ms');
    await daemon.control.remove(id);
  });

  it('cp copies 20 MB in and out', async () => {
    const { id } = await daemon.control.create({});
    const dir = await mkdtemp(join(tmpdir(), 'nv-cp-'));
    try {
      const guestDir = await daemon.control.dirOf(id);
      const input = Array.from({ length: 2_500_000 }, (_, n) => String(n % 1e7)).join('\n');
      const sent = await there(['cp', '-', `${id}:${guestDir}/big`], { input }).result;
      expect(sent).toMatchObject({ status: 0, stderr: '' });
      const fetched = await there(['cp', `${id}:${guestDir}/big`, dir]).result;
      expect(fetched.status).toBe(0);
      expect((await readFile(join(dir, 'big'), 'utf8')) === input).toBe(true);
    } finally {
      await rm(dir, { recursive: true });
      await daemon.control.remove(id);
    }
  });

  it('exec: Ctrl-C goes to the program', async () => {
    const { id } = await daemon.control.create({});
    const running = there(['exec', id, '--', 'sh', '-c', 'echo started; exec sleep 600']);
    await running.seen('started');
    running.kill('SIGINT');
    expect((await running.result).status).toBe(130);
    await daemon.control.remove(id);
  });

  it('a usage error exits with 2, a reason and a remedy', async () => {
    const bad: [string[], string][] = [
      [['exec', 'zzz', '--', 'true'], 'unknown sandbox "zzz"'],
      [['exec', 'z'.repeat(20), '--', 'true'], 'there is none'],
      [['exec', 'zzz'], 'missing program'],
      [['rm'], 'missing sandbox ID'],
      [['pause', '--to', 'tape', 'x'], 'Allowed choices are memory, disk'],
      [['create', '--cpus', 'many'], '--cpus: invalid number "many"'],
      [['create', '--cpus', '0'], '--cpus: 0 is out of range (1 to 32)'],
      [['create', '--memory', '1'], '--memory: 1 is out of range (128M to 64G)'],
      [['create', '--timeout', '0'], '--timeout: 0 is out of range (1ms to 168h)'],
      [['create', '--warm', 'os; print(1)'], 'is not a module name'],
      [['run', '--timeout', '0', '-c', '1'], '--timeout: 0 is out of range (1ms to 168h)'],
      [['fork', 'zzz', '--count', '0'], '--count: 0 is out of range (1 to 64)'],
      [['pool', 'set', '2000', '3000'], 'MIN: 2000 is out of range (0 to 256)'],
      [['help', 'frob'], "unknown command 'frob'"],
      [['frob', '--help'], "unknown command 'frob'"],
      [['pool', 'set', '3', '2'], 'pool minimum 3 exceeds maximum 2'],
      [['shell', 'zzz'], 'needs a terminal'],
      [['frok', 'zzz'], "unknown command 'frok'"],
    ];
    const results = bad.map(([args]) => there(args).result);
    for (const [at, result] of (await Promise.all(results)).entries()) {
      expect(result.stderr).toContain(bad[at]?.[1]);
      expect(result).toMatchObject({ status: 2, stdout: '' });
    }
  });

  it('-o json: prints errors of the daemon as objects', async () => {
    const { status, stdout } = await there(['create', '--warm', 'a b', '-o', 'json']).result;
    expect(status).toBe(2);
    expect(JSON.parse(stdout)).toMatchObject({
      error: { code: 'spec_invalid', message: expect.stringContaining('"a b" is not a module name') },
    });
  });

  it('uses a daemon on a port with NEUROVISOR_URL and its key', async () => {
    const env = await daemon.listenOnPort();
    const good = await cli(['host', '-o', 'json'], { env }).result;
    expect(JSON.parse(good.stdout)).toMatchObject({ accelerator: 'fake' });
    const wrong = await cli(['host'], { env: { ...env, NEUROVISOR_API_KEY: 'guess' } }).result;
    expect(wrong).toMatchObject({ status: 125, stdout: '' });
    expect(wrong.stderr).toContain('fix: set NEUROVISOR_API_KEY');
    const nowhere = { NEUROVISOR_URL: 'ftp://x' };
    expect((await cli(['host'], { env: nowhere }).result).stderr).toContain('NEUROVISOR_URL');
  });

  it('uses a daemon with TLS, by NEUROVISOR_CA or NODE_EXTRA_CA_CERTS: requests, tunnels, events', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'nv-ca-'));
    onTestFinished(() => rm(dir, { recursive: true }));
    const authority = await makeAuthority();
    const ca = join(dir, 'ca.pem');
    await writeFile(ca, authority.cert);
    const there = await daemon.listenOnPort(await authority.issue(['localhost']));
    const { id } = await daemon.control.create({});
    onTestFinished(async () => void (await daemon.control.remove(id)));
    for (const trust of [{ NEUROVISOR_CA: ca }, { NODE_EXTRA_CA_CERTS: ca }]) {
      const env = { ...there, ...trust };
      const ran = await cli(['exec', id, '--', 'cat'], { env, input: 'typed' }).result;
      expect(ran).toMatchObject({ status: 0, stdout: 'typed' });
      const copied = join(await daemon.control.dirOf(id), 'copied.pem');
      expect(await cli(['cp', ca, `${id}:${copied}`], { env }).result).toMatchObject({ status: 0 });
      expect(await readFile(copied, 'utf8')).toBe(authority.cert);
      const followed = await cli(['events', id], { env }).result;
      expect(followed).toMatchObject({ status: 0, stderr: '' });
    }
    const untrusted = await cli(['ls'], { env: there }).result;
    expect(untrusted).toMatchObject({ status: 125, stdout: '' });
    expect(untrusted.stderr).toContain('is not of an authority that this machine trusts');
    expect(untrusted.stderr).toContain('fix: set NEUROVISOR_CA to the PEM file');
    await writeFile(join(dir, 'empty.pem'), 'nothing');
    for (const NEUROVISOR_CA of [join(dir, 'none.pem'), join(dir, 'empty.pem')]) {
      const { status, stderr } = await cli(['ls'], { env: { ...there, NEUROVISOR_CA } }).result;
      expect(status).toBe(125);
      expect(stderr).toContain(`NEUROVISOR_CA: ${NEUROVISOR_CA}: `);
    }
  });

  it('without a daemon, says how to start one', async () => {
    const home = await mkdtemp(join(tmpdir(), 'nv-no-daemon-'));
    onTestFinished(() => rm(home, { recursive: true }));
    const env = { NEUROVISOR_HOME: home };
    for (const args of [['ls'], ['run', '--daemon', '-c', '1']]) {
      const { status, stderr } = await cli(args, { env }).result;
      expect(stderr).toContain('no daemon is running');
      expect(stderr).toContain('neurovisor serve');
      expect(status).toBe(125);
    }
  });
});

describe('run with a daemon', () => {
  it('creates a sandbox in the daemon and removes it', async () => {
    const code = 'import os, sys; print(sys.argv[1:], os.environ["A"]); sys.exit(7)';
    const run = there(['run', '-c', code, '-e', 'A=b', '--', '--flag']);
    expect(await run.result).toEqual({ status: 7, signal: null, stdout: "['--flag'] b\n", stderr: '' });
    expect(await daemon.control.list()).toEqual([]);
  });

  it('with a trace collector, puts command, daemon and script into one trace', async () => {
    await using collector = await startCollector();
    const env = { ...daemon.env, OTEL_EXPORTER_OTLP_ENDPOINT: collector.url };
    const code = 'import os, sys; print(os.environ["TRACEPARENT"]); sys.exit(3)';
    const { status, stdout } = await cli(['run', '--daemon', '-c', code], { env }).result;
    expect(status).toBe(3);
    expect(collector.spans).toMatchObject([{ name: 'run', parentSpanId: '' }]);
    const [{ traceId, spanId } = { traceId: '', spanId: '' }] = collector.spans;
    expect(stdout).toBe(`00-${traceId}-${spanId}-01\n`);
  });

  it('--model: rejects an unknown model before anything starts', async () => {
    const all = async () => (await daemon.control.list({ status: ['running', 'ended'] })).length;
    const before = await all();
    const { status, stderr } = await there(['run', '--model', 'nothere', '-c', '1']).result;
    expect(stderr).toContain('none has no model "nothere"');
    expect(stderr).toContain('fix: use one of: llama, qwen');
    expect(status).toBe(125);
    expect(await all()).toBe(before);
  });

  it('-: reads the script from standard input; -o json reports the claim', async () => {
    const run = there(['run', '-o', 'json', '-'], { input: 'print(6 * 7)' });
    const report = JSON.parse((await run.result).stdout);
    expect(report).toMatchObject({ stdout: '42\n', exit: { exitCode: 0 }, accelerator: 'fake' });
    expect(report.phases[0]).toMatchObject({ name: 'claim', ms: 6 });
  });

  it.each<NodeJS.Signals>(['SIGKILL', 'SIGQUIT'])('%s: its sandbox is removed', async (signal) => {
    const run = there(['run', '-c', 'print("started", flush=True)\nwhile True: pass']);
    await run.seen('started');
    expect(await daemon.control.list()).toMatchObject([{ endsAtMs: null }]);
    process.kill(run.pid, signal);
    await run.result;
    await expect.poll(() => daemon.control.list()).toEqual([]);
  });

  it.each<[NodeJS.Signals, number]>([
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ])('%s: the script gets it and can clean up; the status is %s', async (signal, expected) => {
    const code = `
import os, signal, sys, time
def end(number, _):
    os.write(1, b"cleaned up " + signal.Signals(number).name.encode() + b"\\n")
    sys.exit(0)
signal.signal(signal.${signal}, end)
print("started")
time.sleep(600)
`;
    const run = there(['run', '-c', code]);
    await run.seen('started');
    process.kill(run.pid, signal);
    const { status, stdout, stderr } = await run.result;
    expect({ status, stdout, stderr }).toEqual({
      status: expected,
      stdout: `started\ncleaned up ${signal}\n`,
      stderr: '',
    });
    expect(await daemon.control.list()).toEqual([]);
  });

  it.each([
    ['run', []],
    ['run --daemon', ['--daemon']],
  ])('%s: reports a daemon that stops in the middle, and waits for no other', async (_, options) => {
    await using other = await startFakeDaemon();
    const run = cli(['run', ...options, '-c', 'print("started", flush=True)\nwhile True: pass'], {
      env: { ...other.env, NEUROVISOR_DAEMON_WAIT: '2' },
    });
    await run.seen('started');
    await other.stop();
    const { status, stderr } = await run.result;
    expect(stderr).toMatch(/no daemon is running|lost the connection/);
    expect(stderr).toMatch(/fix: (start one|restart it): neurovisor serve/);
    expect(stderr).not.toContain('waiting for the next one');
    expect(status).toBe(125);
  });
});

/** Runs a command. @param reader for example `| head -1` @returns status of the command, output of the reader */
async function pipedInto(reader: string, args: readonly string[], env: FakeDaemon['env']) {
  const line = `"$@" ${reader}; exit "\${PIPESTATUS[0]}"`;
  const child = spawn('bash', ['-c', line, 'bash', join(ROOT, 'neurovisor'), ...args], {
    env: { ...process.env, NEUROVISOR_UPSTREAM: 'engine', NO_COLOR: '1', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const [stdout, stderr, [status]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'exit') as Promise<[number | null]>,
  ]);
  return { status, stdout, stderr };
}
