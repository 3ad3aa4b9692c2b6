/** `neurovisor serve` and the commands on it, as processes, with real VMs: a day with one daemon. */
import { randomBytes } from 'node:crypto';
import { chmod, mkdir, mkdtemp, readFile, readlink, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ServeReport } from '../../src/cli/commands/serve.ts';
import type { PoolInfo, SandboxInfo } from '../../src/sandbox/contract/control.ts';
import { ROOT } from '../support/cli.ts';
import { type DaemonProcess, useDaemonHome, vmmsIn } from '../support/daemon.ts';
import { freePort } from '../support/free-port.ts';
import { completion, sendJson } from '../support/mock-upstream.ts';
import { onTerminal } from '../support/terminal.ts';

const ID = /^[a-z0-9]{20}$/;
/** Counts in memory and prints the count on request. */
const COUNTER = "n=0; trap 'echo $n > count' USR1; while :; do n=$((n + 1)); sleep 0.05; done";

const home = useDaemonHome();
const { there, says } = home;
let daemon: DaemonProcess;
let report: ServeReport;
/** The sandbox that most tests share, for all of them. */
let id: string;
let dir: string;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nv-daemon-'));
  daemon = home.serve('-o', 'json', '--pool', '0', '--port', '0');
  report = await daemon.ready();
  id = await says('create', '-l', 'user=42', '-e', 'GREETING=hello');
});
afterAll(() => rm(dir, { recursive: true }));

const list = async (...flags: string[]): Promise<SandboxInfo[]> => JSON.parse(await says('ls', ...flags, '-o', 'json'));

/** Runs code in a shell of the shared sandbox. */
const sh = (code: string): Promise<string> => says('exec', id, '--', 'sh', '-c', code);

describe('serve', () => {
  it('prints version and socket; only its user can read socket and key', async () => {
    expect(report).toEqual({
      socketPath: join(home.runDir, 'daemon.sock'),
      url: expect.stringMatching(/^http:\/\/127\.0\.0\.1:\d+$/),
      domain: `localhost:${new URL(report.url ?? '').port}`,
      apiKeyPath: join(home.dir, 'api-key'),
      pid: daemon.pid,
      vmm: expect.stringContaining('QEMU'),
      vmmReason: expect.stringMatching(/KVM/),
      memorySharing: expect.stringContaining('share their template’s memory'),
      upstream: new URL(home.upstream.target.baseUrl ?? '').host,
      auditContent: 'off',
      pool: { min: 0, max: 0 },
      jail: { description: expect.stringMatching(/^(not )?jailed: /), gaps: expect.any(Array) },
    });
    for (const path of [report.socketPath, report.apiKeyPath ?? '']) {
      expect((await stat(path)).mode & 0o777).toBe(0o600);
    }
    const host = JSON.parse(await says('host', '-o', 'json'));
    expect(host).toMatchObject({ vmm: report.vmm, upstream: report.upstream, sandboxes: 1 });
  });

  it('measures the turns of its event loop', async () => {
    const key = (await readFile(report.apiKeyPath ?? '', 'utf8')).trim();
    const answer = await fetch(`${report.url}/metrics`, { headers: { authorization: `Bearer ${key}` } });
    expect(await answer.text()).toMatch(/^neurovisor_loop_turn_seconds_count [1-9]/m);
  });

  it('its port answers only with the key', async () => {
    const key = (await readFile(report.apiKeyPath ?? '', 'utf8')).trim();
    const ask = async (path: string, headers: Record<string, string> = {}) => {
      const answer = await fetch(`${report.url}/v1${path}`, { headers });
      return { status: answer.status, body: await answer.json() };
    };
    expect((await ask('/health')).status).toBe(200);
    for (const headers of [{}, { 'x-api-key': `${key}x` }, { authorization: 'Bearer guess' }]) {
      expect(await ask('/sandboxes', headers as Record<string, string>)).toMatchObject({
        status: 401,
        body: { error: { code: 'unauthorized', remedy: expect.any(String) } },
      });
    }
    for (const headers of [{ 'x-api-key': key }, { authorization: `Bearer ${key}` }]) {
      const answer = await ask('/sandboxes', headers as Record<string, string>);
      expect(answer).toMatchObject({ status: 200, body: { sandboxes: [{ id }] } });
    }
  });

  it('a second daemon at the same home is refused, with a remedy', async () => {
    const second = home.serve('--pool', '0');
    expect(await second.ended).toBe(2);
    expect(second.stderr()).toContain('a daemon is already running for this home');
    expect(second.stderr()).toContain('NEUROVISOR_HOME');
    expect(await says('host')).toContain('QEMU');
  });
});

describe('create, ls', () => {
  it('create: prints only the id on stdout, and how it started on stderr', async () => {
    const { stdout, stderr } = await there(['create', '-l', 'user=43', '--boot']).result;
    expect(stdout.trim()).toMatch(ID);
    // A fast machine boots in less than a second.
    expect(stderr).toMatch(/^booted in [\d.]+ m?s\n$/);
    expect(await list()).toMatchObject([
      { id: stdout.trim(), status: 'running', origin: 'boot', metadata: { user: '43' } },
      { id, status: 'running', metadata: { user: '42' } },
    ]);
    expect(await list('-l', 'user=42')).toHaveLength(1);
    expect(await says('rm', stdout.trim().slice(0, 10))).toBe(stdout.trim());
    const text = await says('ls');
    expect(text).toMatch(new RegExp(`^${id} +- +running +\\d+ \\S+ +- +1 +512 MiB .* user=42$`, 'm'));
    expect(text).not.toContain(stdout.trim());
    expect(await says('ls', '-a')).toMatch(new RegExp(`^${stdout.trim()} +- +ended \\(stopped\\)`, 'm'));
  });
});

describe('exec, shell, ps', () => {
  it('exec: forwards stdin, both outputs, environment and exit status', async () => {
    const program = ['sh', '-c', 'tr a-z A-Z; echo "$GREETING $MORE" >&2; exit 3'];
    const run = there(['exec', id, '-e', 'MORE=there', '--', ...program], { input: 'hi\n' });
    expect(await run.result).toMatchObject({ status: 3, stdout: 'HI\n', stderr: 'hello there\n' });
  });

  it('exec -c: runs Python code with arguments and the host’s model', async () => {
    home.upstream.answer((_, response) => sendJson(response, 200, completion('fine')));
    const code = `
import json, sys, urllib.request
body = json.dumps({"model": "m1", "messages": [{"role": "user", "content": sys.argv[1]}]})
request = urllib.request.Request("http://127.0.0.1:11434/v1/chat/completions", body.encode(),
                                 {"content-type": "application/json"})
print(json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"])`;
    const asked = home.upstream.next();
    expect(await says('exec', id, '-c', code, '--', 'how are you')).toBe('fine');
    expect((await asked).body).toContain('how are you');
  });

  it('exec: a timeout is status 124; -o json prints one object', async () => {
    const late = await there(['exec', id, '--timeout', '1s', '--', 'sleep', '600']).result;
    expect(late).toMatchObject({ status: 124, stderr: expect.stringContaining('time limit') });
    const { status, stdout } = await there(['exec', id, '-o', 'json', '-c', 'print(1); exit(4)']).result;
    expect(status).toBe(4);
    expect(JSON.parse(stdout)).toMatchObject({ sandbox: id, stdout: '1\n', exit: { exitCode: 4 } });
  });

  it('exec: Ctrl-C goes to the program; SIGTERM ends it with the command', async () => {
    const trap = "trap 'echo caught; exit 9' INT; echo started; while :; do sleep 0.1; done";
    const polite = there(['exec', id, '--', 'sh', '-c', trap]);
    await polite.seen('started');
    polite.kill('SIGINT');
    expect(await polite.result).toMatchObject({ status: 9, stdout: 'started\ncaught\n' });
    const ended = there(['exec', id, '--', 'sh', '-c', 'echo started; exec sleep 600']);
    await ended.seen('started');
    ended.kill('SIGTERM');
    expect((await ended.result).status).toBe(143);
    await expect.poll(() => says('ps', id)).not.toContain('sleep 600');
  });

  it('exec --detach: the program continues, and ps shows it', async () => {
    const pid = await says('exec', '--detach', id, '--', 'sleep', '1000');
    expect(await says('ps', id)).toMatch(new RegExp(`^${pid} +user .* detached .* sleep 1000$`, 'm'));
    await sh(`kill ${pid}`);
    await expect.poll(() => says('ps', id)).not.toContain('sleep 1000');
  });

  it('shell: connects this terminal to one in the guest', async () => {
    const terminal = onTerminal([join(ROOT, 'neurovisor'), 'shell', id], home.env);
    await terminal.sees('$ ');
    terminal.type('stty size; id -un; tty\r');
    await terminal.sees('33 111\nuser\n/dev/pts/');
    // One process that reports that it runs: before it has the terminal, bash would take the Ctrl-C.
    terminal.type("sh -c 'echo started-$((40 + 2)); exec sleep 600'\r");
    await terminal.sees('started-42');
    terminal.type('\x03');
    terminal.type('exit $((40 + 2))\r');
    expect(await terminal.ended).toBe(42);
    expect(terminal.screen()).toContain('terminal restored: True');
  });
});

describe('cp', () => {
  it('copies a file of several MiB in and out', async () => {
    const content = randomBytes(5 * 1024 * 1024 + 1);
    await writeFile(join(dir, 'big'), content);
    await says('cp', join(dir, 'big'), `${id}:`);
    expect(await sh('stat -c %s big')).toBe(`${content.length}`);
    await says('cp', `${id}:big`, join(dir, 'back'));
    expect((await readFile(join(dir, 'back'))).equals(content)).toBe(true);
  });

  it('copies a folder with modes, links and subfolders', async () => {
    const tree = join(dir, 'tree');
    await mkdir(join(tree, 'below/deep'), { recursive: true });
    await writeFile(join(tree, 'below/deep/run.sh'), '#!/bin/sh\necho ran\n');
    await chmod(join(tree, 'below/deep/run.sh'), 0o755);
    await symlink('below/deep/run.sh', join(tree, 'link'));
    await says('cp', tree, `${id}:`);
    expect(await sh('./tree/link')).toBe('ran');
    await says('cp', `${id}:tree`, join(dir, 'again'));
    expect(await readlink(join(dir, 'again/link'))).toBe('below/deep/run.sh');
    expect((await stat(join(dir, 'again/link'))).mode & 0o777).toBe(0o755);
  });
});

describe('port', () => {
  it('forwards to a server in a sandbox without a network, also after a pause', async () => {
    await sh('mkdir -p site && echo it is me > site/index.html');
    const server = ['python3', '-m', 'http.server', '--bind', '127.0.0.1', '-d', 'site', '3000'];
    const pid = await says('exec', '--detach', id, '--', ...server);
    const [site, closed] = [await freePort(), await freePort()];
    const run = there(['port', id, `3000:${site}`, `3001:${closed}`]);
    await run.seen(`127.0.0.1:${closed} -> port 3001 of ${id}\n`);
    const get = async (): Promise<string> =>
      (await fetch(`http://127.0.0.1:${site}/`, { headers: { connection: 'close' } })).text();
    await expect.poll(() => get().catch(String)).toBe('it is me\n');
    await expect(fetch(`http://127.0.0.1:${closed}/`)).rejects.toThrow();
    await says('pause', id);
    expect(await get()).toBe('it is me\n');
    run.kill('SIGINT');
    const { status, stderr } = await run.result;
    expect({ status, stderr }).toEqual({
      status: 0,
      stderr: expect.stringContaining('nothing listens on port 3001 in the guest'),
    });
    await sh(`kill ${pid}`);
  });
});

describe('pause, resume', () => {
  it('a program continues where it stopped; exec resumes a paused sandbox', async () => {
    const pid = await says('exec', '--detach', id, '--', 'bash', '-c', COUNTER);
    expect(await says('pause', id)).toBe(id);
    expect(await vmmsIn(home.runDir)).toEqual([]);
    expect(await says('ls')).toMatch(new RegExp(`^${id} +- +paused \\(disk\\)`, 'm'));
    await sh(`kill -USR1 ${pid}; until test -s count; do sleep 0.05; done`);
    expect(Number(await sh('cat count'))).toBeGreaterThan(0);
    expect(await list()).toMatchObject([{ id, status: 'running', pausedTo: null }]);
    expect(await says('pause', '--to', 'memory', id)).toBe(id);
    expect(await vmmsIn(home.runDir)).toHaveLength(1);
    expect(await says('resume', id)).toBe(id);
    expect(await says('ps', id)).toContain(`${pid} `);
    await sh(`kill ${pid}`);
  });
});

describe('snapshot, fork', () => {
  it('snapshot create, ls, create --snapshot and rm work; names are unique', async () => {
    await sh('echo before > state');
    const snapshot = await says('snapshot', 'create', id, '--name', 'ready');
    expect(snapshot).toMatch(ID);
    expect(await says('snapshot', 'ls')).toMatch(new RegExp(`^${snapshot} +ready +${id} .* [\\d.]+ MiB +yes$`, 'm'));
    const twice = await there(['snapshot', 'create', id, '--name', 'ready']).result;
    expect(twice).toMatchObject({ status: 125, stdout: '' });
    expect(twice.stderr).toMatch(/ready/);
    expect(twice.stderr).toContain('fix:');
    await sh('echo after > state');
    const copy = await says('create', '--snapshot', 'ready');
    expect(await says('exec', copy, '--', 'cat', 'state')).toBe('before');
    expect(await list()).toMatchObject([{ id: copy, origin: 'snapshot', snapshot }, { id }]);
    expect(await says('snapshot', 'rm', 'ready')).toBe(snapshot);
    expect(JSON.parse(await says('snapshot', 'ls', '-o', 'json'))).toEqual([]);
    // Sandboxes that started from it no longer need it.
    expect(await says('exec', copy, '--', 'cat', 'state')).toBe('before');
    await says('rm', copy);
    const gone = await there(['create', '--snapshot', 'ready']).result;
    expect(gone).toMatchObject({ status: 2, stderr: expect.stringContaining('ready') });
  });

  it('fork --count 3: copies files, but neither identity nor randomness', async () => {
    const forks = (await says('fork', id, '--count', '3', '-l', 'fork=yes')).split('\n');
    expect(new Set([id, ...forks]).size).toBe(4);
    const code = 'import os, secrets; print(open("state").read().strip(), os.uname().nodename)';
    const all = await Promise.all([id, ...forks].map((one) => says('exec', one, '-c', code)));
    for (const one of all) expect(one).toMatch(/^after nv-/);
    expect(new Set(all).size).toBe(4);
    expect((await list('-l', 'fork=yes')).map(({ parent }) => parent)).toEqual([id, id, id]);
    expect((await says('rm', ...forks)).split('\n').sort()).toEqual([...forks].sort());
  });
});

describe('pool', () => {
  it('pool set, ls: create takes a member, and the pool refills', async () => {
    await says('pool', 'set', '1', '1');
    const pools = async (): Promise<PoolInfo[]> => JSON.parse(await says('pool', 'ls', '-o', 'json'));
    await expect.poll(pools, { timeout: 60_000 }).toMatchObject([{ min: 1, max: 1, ready: 1 }]);
    const { stdout, stderr } = await there(['create', '-e', 'A=b']).result;
    expect(stderr).toMatch(/^taken from the pool in [\d.]+ m?s\n$/);
    expect(await says('exec', stdout.trim(), '--', 'sh', '-c', 'echo $A')).toBe('b');
    await expect.poll(pools, { timeout: 60_000 }).toMatchObject([{ hits: 1, ready: 1 }]);
    await says('rm', stdout.trim());
    await says('pool', 'set', '0', '0');
    await expect.poll(() => vmmsIn(home.runDir)).toHaveLength(1);
  });
});

describe('run', () => {
  it('its sandbox belongs to the daemon and is removed at the end', async () => {
    const code = 'import sys; print(sys.stdin.read().upper(), sys.argv[1:]); sys.exit(7)';
    const run = there(['run', '-c', code, '--', '--flag'], { input: 'hi' });
    expect(await run.result).toEqual({ status: 7, signal: null, stdout: "HI ['--flag']\n", stderr: '' });
    expect(await list()).toMatchObject([{ id }]);
  });
});

describe('rm and errors', () => {
  it('rm: a removed sandbox stays removed, and later commands report that', async () => {
    const other = await says('create');
    expect(await says('rm', other)).toBe(other);
    for (const args of [['resume'], ['rm'], ['exec', '--', 'true'], ['pause']]) {
      const [word = '', ...rest] = args;
      const { status, stdout, stderr } = await there([word, other, ...rest]).result;
      expect(stdout).toBe('');
      expect(stderr).toContain(`sandbox ${other} has ended: stopped`);
      expect(status).toBeGreaterThan(0);
    }
  });

  it('unknown ids are refused, with a remedy', async () => {
    const unknown = 'z'.repeat(20);
    const bad = [
      ['exec', unknown, '--', 'true'],
      ['exec', 'zzz', '--', 'true'],
      ['cp', 'zzz:x', '.'],
      ['fork', unknown],
      ['ps', unknown],
      ['port', unknown, '3000'],
      ['snapshot', 'create', unknown],
      ['snapshot', 'rm', 'zzz'],
    ];
    const results = await Promise.all(bad.map((args) => there(args).result));
    for (const { status, stdout, stderr } of results) {
      expect(stderr).toMatch(/zzz/);
      expect(stderr).toMatch(/fix: .*neurovisor (snapshot )?ls/);
      expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
    }
  });

  it('rm --all: leaves only the daemon', async () => {
    expect(await says('rm', '--all')).toBe(id);
    expect(await list()).toEqual([]);
    expect(await vmmsIn(home.runDir)).toEqual([]);
  });
});
