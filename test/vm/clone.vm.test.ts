/**
 * Clones of templates with real guests: state that two clones must not share (docs/snapshots.md), refusals,
 * and cleanup.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { appendFile, mkdtemp, open, readdir, readFile, rm, stat, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { resolveHome } from '../../src/base/home.ts';
import type { Log } from '../../src/base/log.ts';
import { reclaim } from '../../src/host/runtime/workspace.ts';
import type { SandboxOptions } from '../../src/sandbox/contract/spec.ts';
import type { Supervisor } from '../../src/sandbox/vm/supervisor.ts';
import { type Holdings, holdings } from '../support/leftovers.ts';
import { type MockUpstream, startMockUpstream } from '../support/mock-upstream.ts';
import { exec, python, useRuntime } from '../support/vm.ts';

const warnings: string[] = [];
const log: Log = {
  error: (message) => void warnings.push(message),
  warn: (message, fields) => void warnings.push(`${message} ${JSON.stringify(fields)}`),
  info: () => undefined,
  debug: () => undefined,
};
const upstream: MockUpstream = await startMockUpstream();
const fixture = useRuntime(upstream.target.baseUrl ?? '', log);
afterAll(() => upstream.close());

const ONE_AFTER_ANOTHER = 20;
const AT_ONCE = 3;
const CLOCK_MS_MAX = 2_000;
/** Built in a few seconds, and damaged by these tests. */
const SMALL = { cpus: 1, memoryMib: 160, diskMib: 64, warm: ['json'] } as const;

/** Values that must differ between clones, some of them drawn before the template was saved. */
const TRAITS = `
import json, os, platform, random, secrets, socket, ssl, tempfile, time, uuid
import numpy
print(json.dumps({
  'different': {
    'urandom': os.urandom(16).hex(), 'uuid4': str(uuid.uuid4()), 'uuid1': str(uuid.uuid1()),
    'random': random.random(), 'secrets': secrets.token_hex(8), 'openssl': ssl.RAND_bytes(8).hex(),
    'numpy generator': float(numpy.random.default_rng().random()),
    'numpy global': float(numpy.random.random()),
    'temporary name': next(tempfile._get_candidate_names()),
    'host name': socket.gethostname(), 'platform': platform.node(), 'node': uuid.getnode(),
    'machine id': open('/etc/machine-id').read().strip(),
    'boot id': open('/proc/sys/kernel/random/boot_id').read().strip(),
    'kernel uuid': open('/proc/sys/kernel/random/uuid').read().strip(),
    'sandbox': os.environ['NEUROVISOR_SANDBOX_ID'], 'own variable': os.environ['OWN'],
  },
  'hosts': open('/etc/hosts').read(), 'wallMs': time.time() * 1000,
}))
`;

interface Traits {
  readonly different: Readonly<Record<string, unknown>>;
  readonly hosts: string;
  readonly wallMs: number;
}

interface TimedTraits extends Traits {
  /** How far the guest's clock was from the time of the question, milliseconds. */
  readonly clockErrorMs: number;
}

async function clone(options: SandboxOptions = {}): Promise<Supervisor> {
  const { runtime } = fixture;
  const template = await runtime.templateSource.templateFor(options);
  if (template === null) throw new Error('there is no template to clone');
  const { warm } = template.spec;
  const replace = { template: template.source };
  const sandbox = await runtime.startVm({ ...options, warm }, undefined, replace);
  expect(sandbox.timings?.origin).toBe('clone');
  return sandbox;
}

async function traits(sandbox: Supervisor): Promise<TimedTraits> {
  const before = Date.now();
  const outcome = await python(sandbox.guest(), TRAITS);
  const after = Date.now();
  expect(outcome).toMatchObject({ exitCode: 0, stderr: '' });
  const own = JSON.parse(outcome.stdout) as Traits;
  // The guest looked at its clock between the two, however long the question took.
  return { ...own, clockErrorMs: Math.max(before - own.wallMs, own.wallMs - after, 0) };
}

describe('clones', () => {
  let one: Supervisor;
  let two: Supervisor;
  beforeAll(async () => {
    [one, two] = await Promise.all([clone({ env: { OWN: '1' } }), clone({ env: { OWN: '2' } })]);
  });
  afterAll(() => Promise.all([one.stop(), two.stop()]));

  it('two clones of a template differ in identity, randomness and clocks', async () => {
    // The first script of each: the moment at which they are most alike.
    const [a, b] = await Promise.all([traits(one), traits(two)]);
    for (const [name, value] of Object.entries(a.different)) {
      expect(b.different[name], name).not.toEqual(value);
    }
    for (const [sandbox, own] of [
      [one, a],
      [two, b],
    ] as const) {
      expect(own.different['host name']).toBe(sandbox.spec.hostname);
      expect(own.different['platform']).toBe(sandbox.spec.hostname);
      expect(own.hosts).toContain(sandbox.spec.hostname);
      expect(own.different['sandbox']).toBe(sandbox.spec.id);
      expect(own.clockErrorMs).toBeLessThan(CLOCK_MS_MAX);
    }
  });

  it('a clone has the template’s warm fork server, with no other process and no connection', async () => {
    const outcome = await python(
      one.guest(),
      `
import os, sys
server = os.getppid()
links = [os.readlink(f'/proc/{server}/fd/{fd}') for fd in os.listdir(f'/proc/{server}/fd')]
print('langchain_openai' in sys.modules, len([l for l in links if l.startswith('socket')]),
      len(os.listdir(f'/proc/{server}/task')))
`,
      { user: 'root' },
    );
    // One socket: that to the agent.
    expect(outcome).toMatchObject({ stdout: 'True 1 1\n', stderr: '' });
  });

  it('a warm library sees the environment of the script, not of the template build', async () => {
    const outcome = await python(
      one.guest(),
      'from langsmith.utils import get_env_var, get_tracer_project\nprint(get_env_var("TRACING"), get_tracer_project())',
      { env: { LANGSMITH_TRACING: 'false', LANGSMITH_PROJECT: 'mine' } },
    );
    expect(outcome).toMatchObject({ stdout: 'false mine\n', stderr: '' });
  });

  it('a clone has no process, host name or connection of the template build', async () => {
    const processes = await exec(two.guest(), ['sh', '-c', 'cat /proc/[0-9]*/comm | sort | uniq -c'], { user: 'root' });
    // Only the fork server: the agent is in another pid namespace.
    expect(processes.stdout).toMatch(/1 python3\n/);
    const names = await exec(two.guest(), ['grep', '-rl', 'template-', '/etc', '/home', '/tmp', '/run'], {
      user: 'root',
    });
    expect(names.stdout).toBe('');
    expect(await two.guest().processes()).toEqual([]);
  });

  it('a file that one clone writes does not exist in the other', async () => {
    await one.guest().files.write('own', 'one');
    await expect(two.guest().files.stat('own')).rejects.toMatchObject({ code: 'not_found' });
    const disk = await exec(
      two.guest(),
      ['sh', '-c', 'dd if=/dev/zero of=/tmp/f bs=1M count=64 && sync && dmesg | grep -ci "ext4.*error"'],
      { user: 'root' },
    );
    expect(disk.stdout).toBe('0\n');
  });

  it('LangChain reaches the model under the policy of the clone', async () => {
    const seen = upstream.next();
    const outcome = await python(
      one.guest(),
      "from langchain_openai import ChatOpenAI\nprint(ChatOpenAI(model='m1').invoke('hi').content)",
    );
    expect(outcome).toMatchObject({ stdout: 'hello\n', exitCode: 0 });
    expect((await seen).path).toBe('/v1/chat/completions');
  });
});

describe('template', () => {
  const options: SandboxOptions = { ...SMALL };
  const small = () => fixture.runtime.templates.prepare(SMALL);
  const dirOf = (key: string): string => join(fixture.runtime.home.cacheDir, 'template', key);
  afterAll(async () => {
    await fixture.runtime.templates.remove((await small()).key);
  });

  it('a sandbox of another size boots until a template of that size exists', async () => {
    await fixture.runtime.templates.remove((await small()).key);
    expect(await fixture.runtime.templateSource.templateFor(options)).toBeNull();
    await small();
    await (await clone(options)).stop();
  });

  it.each(['ram', 'state', 'disk.ext4', 'manifest.json'])(
    'a template with a flipped byte in %s is rebuilt, never loaded',
    async (name) => {
      const { key } = await small();
      const path = join(dirOf(key), name);
      await flip(path);
      const spoilt = (await stat(path, { bigint: true })).ctimeNs;
      warnings.length = 0;
      const sandbox = await clone(options);
      expect(await python(sandbox.guest(), 'print(1)')).toMatchObject({ stdout: '1\n' });
      await sandbox.stop();
      expect(warnings).toEqual([expect.stringContaining('is unusable and will be rebuilt')]);
      expect((await stat(path, { bigint: true })).ctimeNs).not.toBe(spoilt);
    },
  );

  it('a template damaged after it was opened, or of another machine, is refused by the driver', async () => {
    const template = await small();
    await appendFile(join(dirOf(template.key), 'state'), 'x');
    const sandbox = fixture.runtime.prepareVm(options, { template: template.source });
    await expect(sandbox.start()).rejects.toMatchObject({
      code: 'start_failed',
      cause: { message: expect.stringContaining('could not load the snapshot') },
    });
    const other = { ...template.source.snapshot, machine: 'QEMU 6.0.0 tcg' };
    const wrong = { ...template.source, snapshot: other };
    await expect(fixture.runtime.prepareVm(options, { template: wrong }).start()).rejects.toMatchObject({
      cause: { message: expect.stringContaining('another machine') },
    });
  });
});

describe('cleanup', () => {
  let before: Holdings;
  const settled = async (): Promise<Holdings> => {
    await sleep(500);
    return await holdings(fixture.runtime.home.runDir);
  };
  const requireNothingNew = async (): Promise<void> => {
    const { fds, ...others } = await settled();
    const { '/memfd': memfds = 0, ...otherFds } = fds;
    const { '/memfd': memfdsBefore = 0, ...fdsBefore } = before.fds;
    expect({ ...others, fds: otherFds }).toEqual({ ...before, fds: fdsBefore });
    // The memory of the templates above goes a minute after their last clone.
    expect(memfds).toBeLessThanOrEqual(memfdsBefore);
  };
  const runOne = async (value: number): Promise<void> => {
    const sandbox = await clone();
    try {
      const outcome = await python(sandbox.guest(), `print(${value} * 2)`);
      expect(outcome).toMatchObject({ exitCode: 0, stdout: `${value * 2}\n` });
    } finally {
      await sandbox.stop();
    }
  };
  beforeAll(async () => {
    await runOne(0);
    before = await settled();
  });

  it(`${ONE_AFTER_ANOTHER} clones in sequence leave no process, file or descriptor`, async () => {
    for (let n = 1; n <= ONE_AFTER_ANOTHER; n += 1) await runOne(n);
    await requireNothingNew();
  });

  it(`${AT_ONCE} clones at once leave nothing behind, and each gets its own output`, async () => {
    await Promise.all(Array.from({ length: AT_ONCE }, (_, n) => runOne(n)));
    await requireNothingNew();
  });

  it.each(['made', 'running'] as const)(
    'an owner killed when its clone is %s: the next start removes all leftovers',
    async (moment) => {
      // A separate home hides other sandboxes; it shares what set-up has made.
      const dir = await mkdtemp(join(tmpdir(), 'nv-home-'));
      await symlink(fixture.runtime.home.cacheDir, join(dir, 'cache'));
      const { runDir } = resolveHome(dir);
      const owner = startOwner(dir);
      // The directory of the run's store is there before that of its sandbox.
      const idOf = async (): Promise<string> => {
        const names = await readdir(runDir).catch(() => []);
        const isStore = (name: string): boolean => existsSync(join(runDir, name, 'data'));
        return names.some(isStore) ? (names.find((name) => !isStore(name)) ?? '') : '';
      };
      await until(async () => {
        const id = await idOf();
        return id !== '' && existsSync(join(runDir, id, 'owner.json'));
      });
      const id = await idOf();
      if (moment === 'running') await owner.up;
      const record = await readFile(join(runDir, id, 'owner.json'), 'utf8');
      await owner.kill();
      // What the dead owner's runtime would do, its successor does.
      expect(await reclaim(runDir, log)).toBe(2);
      expect(await readdir(runDir)).toEqual([]);
      const { vmm } = JSON.parse(record) as { vmm: { pid: number } | null };
      expect(vmm !== null).toBe(moment === 'running');
      if (vmm !== null) await until(async () => !(await runs(vmm.pid)));
      await rm(dir, { recursive: true });
    },
  );
});

/** A process that runs a script in a clone; `up` resolves when the script does. */
function startOwner(home: string): { readonly up: Promise<unknown>; kill(): Promise<void> } {
  const main = join(import.meta.dirname, '../../src/cli/main.ts');
  const code = 'print("up", flush=True); import time; time.sleep(60)';
  const env = { ...process.env, NEUROVISOR_HOME: home, NEUROVISOR_UPSTREAM: upstream.target.baseUrl };
  const child = spawn(process.execPath, [main, 'run', '-c', code], { stdio: ['ignore', 'pipe', 'ignore'], env });
  const exited = once(child, 'exit');
  return {
    up: once(child.stdout, 'data'),
    kill: async () => {
      child.kill('SIGKILL');
      await exited;
    },
  };
}

/** A zombie does not run. */
async function runs(pid: number): Promise<boolean> {
  const status = await readFile(`/proc/${pid}/stat`, 'latin1').catch(() => '');
  return status !== '' && !/\) [ZX] /.test(status);
}

async function until(holds: () => Promise<boolean>): Promise<void> {
  for (const deadline = Date.now() + 30_000; !(await holds()); await sleep(1)) {
    if (Date.now() > deadline) throw new Error('it did not happen');
  }
}

/** The first byte that is not zero, so that the change is one of content. */
async function flip(path: string): Promise<void> {
  await using file = await open(path, 'r+');
  const buffer = Buffer.alloc(1024 * 1024);
  for (let base = 0; ; base += buffer.length) {
    const { bytesRead } = await file.read(buffer, 0, buffer.length, base);
    if (bytesRead === 0) throw new Error(`${path} is all zeros`);
    const at = buffer.subarray(0, bytesRead).findIndex((byte) => byte !== 0);
    if (at < 0) continue;
    await file.write(Buffer.from([(buffer[at] ?? 0) ^ 1]), 0, 1, base + at);
    return;
  }
}
