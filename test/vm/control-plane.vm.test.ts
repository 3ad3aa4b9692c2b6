/**
 * Sandboxes that are paused, resumed, saved and forked, with real guests: what goes on, what must not be
 * shared (docs/snapshots.md), and how connections end.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { Guest } from '../../src/machine/guest/link.ts';
import type { CreateRequest, SandboxInfo } from '../../src/sandbox/contract/control.ts';
import { countBeyond, readCount, startCounter } from '../support/counter.ts';
import { type Holdings, holdings } from '../support/leftovers.ts';
import { completion, type MockUpstream, sendJson, startMockUpstream } from '../support/mock-upstream.ts';
import { exec, python, SMALL, useControlPlane, vmmOf } from '../support/vm.ts';

const upstream: MockUpstream = await startMockUpstream();
const fixture = useControlPlane(() => upstream.target.baseUrl ?? '');
afterAll(() => upstream.close());

const CLOCK_MS_MAX = 2_000;
/** Longer than the clock may be off, so that one that stopped is seen. */
const PAUSED_MS = 3_000;
const FORKS = 3;

async function create(request: CreateRequest = {}): Promise<SandboxInfo> {
  return await fixture.control.create({ ...SMALL, ...request });
}

/** So that one test that fails leaves nothing for the next. */
async function removeAll(): Promise<void> {
  const { control } = fixture;
  for (const { id } of await control.list()) await control.remove(id);
  for (const { id } of await control.snapshots()) await control.removeSnapshot(id);
  for (const { name } of await control.volumes()) await control.removeVolume(name);
}

/** The guest looks at its clock between question and answer, however long they take. */
async function clockOffMs(guest: Guest): Promise<number> {
  const before = Date.now();
  const { stdout } = await python(guest, 'import time; print(time.time() * 1000)');
  const after = Date.now();
  return Math.max(before - Number(stdout), Number(stdout) - after, 0);
}

const settled = async (): Promise<Holdings> => {
  await sleep(500);
  return await holdings(fixture.runtime.home.runDir);
};

describe('pause and resume', () => {
  afterEach(removeAll);
  it('pause to disk: process and memory are released; resume: id, files, program, environment and clock continue', async () => {
    const { control } = fixture;
    // What lives as long as the runtime is started with its first sandbox.
    await control.remove((await create()).id);
    const before = await settled();
    const { id } = await create({ env: { OWN: 'mine' }, metadata: { user: '7' } });
    const guest = await control.guest(id);
    await guest.files.write('kept', 'content');
    const begun = await startCounter(guest);
    const vmm = await vmmOf(fixture, id);

    expect(await control.pause(id, 'disk')).toMatchObject({ status: 'paused', pausedTo: 'disk' });
    await expect(readFile(`/proc/${vmm}/stat`)).rejects.toMatchObject({ code: 'ENOENT' });
    expect(await settled()).toEqual(before);
    await sleep(PAUSED_MS);

    expect(await control.resume(id)).toMatchObject({ id, status: 'running', pausedTo: null });
    const again = await control.guest(id);
    const seen = await readCount(again);
    const later = await countBeyond(again, seen.n);
    expect(later).toEqual({ ...begun, n: later.n });
    expect(later.n).toBeGreaterThan(begun.n);
    expect((await again.files.readAll('kept')).toString()).toBe('content');
    const env = await exec(again, ['sh', '-c', 'echo $OWN $NEUROVISOR_SANDBOX_ID']);
    expect(env.stdout).toBe(`mine ${id}\n`);
    expect(await clockOffMs(again)).toBeLessThan(CLOCK_MS_MAX);
    expect((await control.get(id)).metadata).toEqual({ user: '7' });

    await control.remove(id);
    expect(await settled()).toEqual(before);
    expect(await readdir(join(fixture.dataDir, 'files'))).toEqual([]);
  });

  it('pause in memory: the processors stop; resume: the program continues with the right clock', async () => {
    const { control } = fixture;
    const { id } = await create();
    const guest = await control.guest(id);
    const begun = await startCounter(guest);
    const vmm = await vmmOf(fixture, id);
    await control.pause(id, 'memory');
    const ticks = await cpuTicks(vmm);
    await sleep(PAUSED_MS);
    // A guest that ran would use several in this time; the VMM's own housekeeping may use one.
    expect((await cpuTicks(vmm)) - ticks).toBeLessThan(5);
    await control.resume(id);
    expect(await clockOffMs(await control.guest(id))).toBeLessThan(CLOCK_MS_MAX);
    const later = await countBeyond(await control.guest(id), begun.n);
    expect(later).toEqual({ ...begun, n: later.n });
    expect(await vmmOf(fixture, id)).toBe(vmm);
    await control.remove(id);
  });

  it('an operation on a paused sandbox resumes it, unless automatic resume is off', async () => {
    const { control } = fixture;
    const { id } = await create();
    for (const use of [
      async () => await exec(await control.guest(id), ['true']),
      async () => void (await control.openOperation(id)).destroy(),
      async () => await control.channelStats(id),
    ]) {
      await control.pause(id, 'disk');
      await use();
      expect((await control.get(id)).status).toBe('running');
    }
    await control.update(id, { autoResume: false });
    await control.pause(id, 'disk');
    await expect(control.guest(id)).rejects.toMatchObject({ code: 'not_ready' });
    expect((await control.get(id)).status).toBe('paused');
    await control.remove(id);
  });
});

describe('connections over a pause to disk', () => {
  afterEach(removeAll);
  /** Asks its model until there is an answer, and says how each try went. */
  const ASK = `
import json, time, urllib.request
def ask():
    body = json.dumps({'model': 'm1', 'messages': [{'role': 'user', 'content': 'hi'}]}).encode()
    request = urllib.request.Request('http://127.0.0.1:11434/v1/chat/completions', body,
                                     {'content-type': 'application/json'})
    try:
        answer = json.load(urllib.request.urlopen(request, timeout=600))
        return answer['choices'][0]['message']['content']
    except Exception as error:
        return f'failed: {type(error).__name__}'
answers = [ask()]
while answers[-1].startswith('failed') and len(answers) < 100:
    time.sleep(0.1)
    answers.append(ask())
with open('answers', 'w') as file: file.write(' '.join(answers))
`;
  /** Takes one connection, and says when it has ended. */
  const SERVE = `
import socket
server = socket.create_server(('127.0.0.1', 7000))
print('listens', flush=True)
peer, _ = server.accept()
peer.sendall(b'hello')
try:
    end = 'end' if peer.recv(1) == b'' else 'data'
except OSError as error:
    end = 'reset'
open('served', 'w').write(end)
`;

  it('pause: every connection ends on both sides; resume: new ones work', async () => {
    const { control } = fixture;
    const { id } = await create();
    const guest = await control.guest(id);
    const cat = await guest.exec({ argv: ['cat'] });
    const server = await guest.python({ script: { code: SERVE }, stdin: false, detached: true });
    await new Promise((resolve) => server.stdout.once('data', resolve));
    const socket = await guest.connect(7000);
    const greeting = await new Promise((resolve) => socket.once('data', resolve));
    expect(String(greeting)).toBe('hello');
    const tcpEnded = new Promise((resolve) => {
      socket.once('error', resolve).once('close', resolve).resume();
    });
    upstream.answer(() => undefined);
    const asked = upstream.next();
    await guest.python({ script: { code: ASK }, stdin: false, detached: true });
    const request = await asked;
    upstream.answer((_, response) => sendJson(response, 200, completion('hello')));

    const failures = Promise.all([
      expect(cat.exit).rejects.toMatchObject({ code: 'suspended' }),
      expect(server.exit).rejects.toMatchObject({ code: 'suspended' }),
      tcpEnded,
      request.aborted,
    ]);
    await control.pause(id, 'disk');
    await failures;
    await expect(guest.exec({ argv: ['true'] })).rejects.toMatchObject({ code: 'suspended' });
    await control.resume(id);
    const again = await control.guest(id);
    await expect.poll(() => textOf(again, 'answers')).toMatch(/^(failed: \w+ )+hello$/);
    await expect.poll(() => textOf(again, 'served')).toMatch(/^(end|reset)$/);
    // The program saw the end of its input only now, since no client is attached.
    expect((await again.processes()).map(({ pid }) => pid)).toContain(cat.pid);
    await control.remove(id);
  });
});

describe('snapshot', () => {
  afterEach(removeAll);
  it('a sandbox from a snapshot has its files and programs, and nothing of its source’s identity', async () => {
    const { control } = fixture;
    const { id } = await create({ env: { OWN: 'maker', SECRET: 'of the maker' } });
    const guest = await control.guest(id);
    await guest.files.write('kept', 'content');
    const begun = await startCounter(guest);
    const kept = await control.snapshot(id, { name: 'base' });
    expect(kept).toMatchObject({ name: 'base', sandbox: id, current: true });
    expect((await countBeyond(await control.guest(id), begun.n)).word).toBe(begun.word);

    const made = await control.create({ snapshot: 'base', env: { OTHER: 'new' } });
    expect(made).toMatchObject({ origin: 'snapshot', snapshot: kept.id, parent: null });
    const other = await control.guest(made.id);
    expect((await other.files.readAll('kept')).toString()).toBe('content');
    const env = await exec(other, ['env']);
    expect(env.stdout).toContain('OTHER=new');
    expect(env.stdout).toContain(`NEUROVISOR_SANDBOX_ID=${made.id}`);
    expect(env.stdout).not.toMatch(/^(OWN|SECRET)=|of the maker/m);
    // A running program continues with what it had read by then.
    expect(await countBeyond(other, begun.n)).toMatchObject({ word: begun.word, own: 'maker' });

    await control.remove(id);
    await control.remove(made.id);
    const third = await control.create({ snapshot: kept.id });
    expect(await python(await control.guest(third.id), 'print(1)')).toMatchObject({ exitCode: 0 });
    await control.remove(third.id);
    await control.removeSnapshot('base');
    expect(await readdir(join(fixture.dataDir, 'files'))).toEqual([]);
  });
});

const TRAITS = `
import json, os, platform, random, secrets, socket, ssl, tempfile, uuid
print(json.dumps({
  'urandom': os.urandom(16).hex(), 'uuid4': str(uuid.uuid4()), 'uuid1': str(uuid.uuid1()),
  'random': random.random(), 'secrets': secrets.token_hex(8), 'openssl': ssl.RAND_bytes(8).hex(),
  'temporary name': next(tempfile._get_candidate_names()), 'node': uuid.getnode(),
  'host name': socket.gethostname(), 'platform': platform.node(),
  'machine id': open('/etc/machine-id').read().strip(),
  'kernel uuid': open('/proc/sys/kernel/random/uuid').read().strip(),
  'hosts': open('/etc/hosts').read(), 'sandbox': os.environ['NEUROVISOR_SANDBOX_ID'],
}))
`;

describe.each(['clone', 'boot'] as const)('fork of a %s', (origin) => {
  let parent: SandboxInfo;
  let forks: readonly SandboxInfo[];
  let begun: Awaited<ReturnType<typeof startCounter>>;
  const family = () => [parent, ...forks];
  beforeAll(async () => {
    const { control } = fixture;
    parent = await create({ env: { OWN: 'parent' }, boot: origin === 'boot' });
    expect(parent.origin).toBe(origin);
    const guest = await control.guest(parent.id);
    begun = await startCounter(guest);
    await guest.files.write('shared', 'before');
    const count = origin === 'boot' ? 1 : FORKS;
    const results = await control.fork(parent.id, { count, metadata: { fork: 'yes' } });
    forks = results.map((result) => {
      if (!result.ok) throw new Error(result.message);
      return result.sandbox;
    });
  });
  afterAll(removeAll);

  it('forks differ in identity, randomness and clocks', async () => {
    const traits = await Promise.all(
      family().map(async ({ id }) => {
        const outcome = await python(await fixture.control.guest(id), TRAITS);
        expect(outcome).toMatchObject({ exitCode: 0, stderr: '' });
        return JSON.parse(outcome.stdout) as Record<string, string>;
      }),
    );
    for (const name of Object.keys(traits[0] ?? {})) {
      expect(new Set(traits.map((own) => own[name])).size, name).toBe(family().length);
    }
    expect(traits.map((own) => own['sandbox'])).toEqual(family().map(({ id }) => id));
    for (const fork of forks) {
      expect(fork).toMatchObject({ origin: 'fork', parent: parent.id, metadata: { fork: 'yes' } });
    }
  });

  it('forks start with the files of that moment, and then have their own', async () => {
    const guests = await Promise.all(family().map(({ id }) => fixture.control.guest(id)));
    const all = await Promise.all(guests.map((guest) => textOf(guest, 'shared')));
    expect(all).toEqual(all.map(() => 'before'));
    await Promise.all(guests.map((guest, n) => guest.files.write('shared', `after ${n}`)));
    expect(await Promise.all(guests.map((guest) => textOf(guest, 'shared')))).toEqual(
      guests.map((_, n) => `after ${n}`),
    );
  });

  it('the running program continues in each fork, with its memory', async () => {
    for (const { id } of family()) {
      const guest = await fixture.control.guest(id);
      const seen = await readCount(guest);
      const later = await countBeyond(guest, seen.n);
      expect(later).toEqual({ ...begun, n: later.n });
    }
  });

  it('each fork can be paused to disk and resumed', async () => {
    const { control } = fixture;
    for (const { id } of [parent, ...forks.slice(0, 1)]) {
      await control.pause(id, 'disk');
      await control.resume(id);
      const guest = await control.guest(id);
      expect((await countBeyond(guest, (await readCount(guest)).n)).word).toBe(begun.word);
    }
  });
});

describe('volumes', () => {
  const data = { name: 'data', path: '/data' };
  const read = { ...data, readOnly: true };
  const shell = async ({ id }: SandboxInfo, command: string) =>
    await exec(await fixture.control.guest(id), ['sh', '-c', command]);

  afterEach(removeAll);

  it('what one sandbox writes, the next ones read, and only one writes at a time', async () => {
    const { control } = fixture;
    await control.createVolume({ name: 'data', sizeMib: 64 });
    const writer = await create({ volumes: [data] });
    expect(writer.origin).toBe('clone');
    expect(await shell(writer, 'echo first > /data/a && grep " /data " /proc/mounts')).toMatchObject({
      exitCode: 0,
      stdout: expect.stringMatching(/ \/data ext4 rw,nosuid,nodev,noatime/),
    });
    await expect(create({ volumes: [read] })).rejects.toMatchObject({ code: 'in_use' });

    // Paused, it keeps the volume, its open files and what they have.
    const guest = await control.guest(writer.id);
    const follow = await guest.exec({ argv: ['sh', '-c', 'exec 3>>/data/b; while sleep 0.1; do echo x >&3; done'] });
    expect(follow.pid).toBeGreaterThan(0);
    await control.pause(writer.id, 'disk');
    await expect(create({ volumes: [data] })).rejects.toMatchObject({ code: 'in_use' });
    await control.resume(writer.id);
    expect(
      (
        await shell(
          writer,
          'echo second > /data/c; cat /data/a; n=$(wc -l < /data/b); while [ $(wc -l < /data/b) = $n ]; do sleep 0.1; done',
        )
      ).stdout,
    ).toBe('first\n');
    await control.remove(writer.id);

    const readers = await Promise.all([create({ volumes: [read] }), create({ boot: true, volumes: [read] })]);
    for (const reader of readers) {
      expect((await shell(reader, 'cat /data/a /data/c')).stdout).toBe('first\nsecond\n');
      expect(await shell(reader, 'echo no > /data/a')).toMatchObject({
        exitCode: 2,
        stderr: expect.stringContaining('Read-only file system'),
      });
    }
    await expect(control.removeVolume('data')).rejects.toMatchObject({ code: 'in_use' });
    await Promise.all(readers.map(({ id }) => control.remove(id)));
    await control.removeVolume('data');
  });

  it('a full volume refuses more, and the sandbox continues', async () => {
    const { control } = fixture;
    await control.createVolume({ name: 'data', sizeMib: 16 });
    const one = await create({ volumes: [data] });
    const full = await shell(one, 'head -c 20000000 /dev/zero > /data/much');
    expect(full).toMatchObject({ exitCode: 1, stderr: expect.stringContaining('No space left') });
    expect((await shell(one, 'rm /data/much && echo fits > /data/a && cat /data/a')).stdout).toBe('fits\n');
    await control.remove(one.id);
    await control.removeVolume('data');
  });
});

async function textOf(guest: Guest, path: string): Promise<string> {
  const bytes = await guest.files.readAll(path).catch(() => undefined);
  return bytes?.toString() ?? '';
}

/** Processor time that a process has used, in ticks of 10 ms (fields 14 and 15, proc(5)). */
async function cpuTicks(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'latin1');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return Number(fields[11]) + Number(fields[12]);
}
