/** The library on a daemon, whose sandboxes are agents of this machine. */
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { type AddressInfo, connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer, text } from 'node:stream/consumers';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { CodedError, CopyError, Sandbox } from '../../src/index.ts';
import { type FakeDaemon, startFakeDaemon } from '../support/fake-daemon.ts';

let daemon: FakeDaemon;
const before = { ...process.env };

beforeAll(async () => {
  daemon = await startFakeDaemon();
  Object.assign(process.env, daemon.env);
});
afterAll(async () => {
  process.env = before;
  await daemon[Symbol.asyncDispose]();
});
afterEach(async () => {
  for (const { id } of await daemon.control.list()) await daemon.control.remove(id);
});

describe('Sandbox in a daemon', () => {
  it('create finds the daemon; runCode, exec, stdin, pieces of output', async () => {
    const sandbox = await Sandbox.create({ env: { COLOUR: 'green' }, metadata: { user: '42' } });
    expect((await daemon.control.get(sandbox.id)).metadata).toEqual({ user: '42' });
    const code = "import os, sys; print(os.environ['COLOUR'], sys.argv[1:]); sys.exit(3)";
    expect(await sandbox.runCode(code, { args: ['a b'] })).toMatchObject({ exitCode: 3, stdout: "green ['a b']\n" });
    const pieces: string[] = [];
    const onStdout = (chunk: Buffer): void => void pieces.push(chunk.toString());
    expect(await sandbox.exec(['cat'], { stdin: 'typed', onStdout })).toMatchObject({ exitCode: 0, stdout: 'typed' });
    expect(pieces.join('')).toBe('typed');
  });

  it('exec: sets truncated when it drops output', async () => {
    const sandbox = await Sandbox.create();
    const result = await sandbox.exec(['head', '-c', '20000000', '/dev/zero']);
    expect([result.stdout.length, result.truncated]).toEqual([16 * 1024 * 1024, true]);
  });

  it("exec, runCode with encoding 'buffer': returns bytes as the program wrote them", async () => {
    const sandbox = await Sandbox.create();
    const every = Buffer.from([...Array(256).keys()]);
    const bytes = await sandbox.exec(['cat'], { stdin: every, encoding: 'buffer' });
    expect(bytes.stdout.equals(every)).toBe(true);
    const code = 'import sys; sys.stderr.buffer.write(bytes(range(256)))';
    const { stderr } = await sandbox.runCode(code, { encoding: 'buffer' });
    expect(stderr.equals(every)).toBe(true);
    expect((await sandbox.exec(['printf', 'ü'])).stdout).toBe('ü');
  });

  it('upload, download: a directory comes back unchanged; ignored files stay, aborts reject', async () => {
    const sandbox = await Sandbox.create();
    const there = await daemon.control.dirOf(sandbox.id);
    const here = await mkdtemp(join(tmpdir(), 'nv-library-'));
    try {
      await mkdir(join(here, 'project/sub'), { recursive: true });
      await writeFile(join(here, 'project/.gitignore'), '*.log\n');
      await writeFile(join(here, 'project/a.log'), 'ignored');
      await writeFile(join(here, 'project/sub/b.bin'), Buffer.from([0, 255]));
      const uploaded = await sandbox.upload(join(here, 'project'), `${there}/`, { gitignore: true });
      expect(uploaded).toBe(join(there, 'project'));
      const received = await sandbox.download(uploaded, join(here, 'back'));
      expect(received).toEqual({ path: join(here, 'back'), files: 2, bytes: 8 });
      expect((await readdir(join(here, 'back'))).sort()).toEqual(['.gitignore', 'sub']);
      expect(await readFile(join(here, 'back/sub/b.bin'))).toEqual(Buffer.from([0, 255]));
      await expect(sandbox.download(`${there}/none`)).rejects.toMatchObject({ code: 'not_found' });
      await expect(sandbox.upload(join(here, 'none'))).rejects.toBeInstanceOf(CopyError);
      const signal = AbortSignal.abort(new Error('enough'));
      await expect(sandbox.download(uploaded, here, { signal })).rejects.toThrow('enough');
    } finally {
      await rm(here, { recursive: true });
    }
  });

  it('files, stats, connect', async () => {
    const sandbox = await Sandbox.create();
    const path = `${await daemon.control.dirOf(sandbox.id)}/data/b.bin`;
    const bytes = Buffer.from([0, 255, 10]);
    await sandbox.files.write(path, bytes);
    expect(await sandbox.files.readAll(path)).toEqual(bytes);
    expect((await sandbox.files.stat(path)).bytes).toBe(3);
    expect((await sandbox.stats()).cpuCount).toBeGreaterThan(0);
    await expect(sandbox.connect(1)).rejects.toBeInstanceOf(CodedError);
  });

  it('forward: maps a local port to a port of the guest until the sandbox ends', async () => {
    const server = createServer((socket) => void socket.end('hi'));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const sandbox = await Sandbox.create();
    const forward = await sandbox.forward(port);
    expect(forward).toMatchObject({ guestPort: port, address: '127.0.0.1' });
    const read = () => text(connect(forward.localPort, forward.address));
    expect(await read()).toBe('hi');
    await expect(sandbox.forward(1, { localPort: forward.localPort })).rejects.toMatchObject({
      code: 'port_in_use',
      remedy: expect.any(String),
    });
    await sandbox.kill();
    await expect.poll(() => read().catch(({ code }) => code)).toBe('ECONNREFUSED');
    await expect(sandbox.forward(port)).rejects.toMatchObject({ code: 'gone' });
    server.close();
  });

  it('start: streams, attach, processes', async () => {
    const sandbox = await Sandbox.create();
    const cat = await sandbox.start(['cat'], { tag: 'mine' });
    expect(await sandbox.processes()).toMatchObject([{ pid: cat.pid, tag: 'mine' }]);
    const taken = await sandbox.attach(cat.pid);
    taken.stdin.end('hello');
    expect((await buffer(taken.stdout)).toString()).toBe('hello');
    expect(await taken.exit).toMatchObject({ exitCode: 0 });
  });

  it('output, wait: of a detached program, which keeps its streams, also after its end', async () => {
    const sandbox = await Sandbox.create();
    const program = await sandbox.start(['sh', '-c', 'echo one; read a; exit 4'], { detached: true });
    const [chunk] = await once(program.stdout, 'data');
    const waiting = sandbox.wait(program.pid);
    const aborter = new AbortController();
    const left = sandbox.wait(program.pid, { signal: aborter.signal });
    aborter.abort();
    await expect(left).rejects.toMatchObject({ name: 'AbortError' });
    program.stdin.end('go\n');
    expect([String(chunk), await waiting, await program.exit]).toMatchObject([
      'one\n',
      { exitCode: 4 },
      { exitCode: 4 },
    ]);
    const output = await sandbox.output(program.pid, { from: { stdout: 1, stderr: 0 } });
    expect([String(output.stdout), output.to]).toEqual(['ne\n', { stdout: 4, stderr: 0 }]);
    expect(await sandbox.endedProcesses()).toMatchObject([{ pid: program.pid, exit: { exitCode: 4 } }]);
    const again = await sandbox.attach(program.pid, { from: { stdout: 2, stderr: 0 } });
    expect((await buffer(again.stdout)).toString()).toBe('e\n');
  });

  it('signal: an abort kills the program and rejects', async () => {
    const sandbox = await Sandbox.create();
    const aborter = new AbortController();
    const onStdout = (): void => aborter.abort();
    const running = sandbox.exec(['sh', '-c', 'echo started; exec sleep 600'], { signal: aborter.signal, onStdout });
    await expect(running).rejects.toMatchObject({ name: 'AbortError' });
    await expect.poll(() => sandbox.processes()).toEqual([]);
  });

  it('create: a sandbox of a named template reports its name', async () => {
    const sandbox = await Sandbox.create({ template: 'data' });
    expect(await sandbox.info()).toMatchObject({ template: 'data' });
    await sandbox.kill();
    const refused = Sandbox.create({ template: 'No name' });
    await expect(refused).rejects.toMatchObject({ code: 'spec_invalid' });
  });

  it('pause, resume, snapshot, fork, setTimeout, setMetadata, usage, limits', async () => {
    const sandbox = await Sandbox.create({ autoResume: false });
    await sandbox.pause({ to: 'disk' });
    expect(await sandbox.info()).toMatchObject({ status: 'paused', pausedTo: 'disk' });
    await expect(sandbox.exec(['true'])).rejects.toMatchObject({ code: 'not_ready' });
    await sandbox.resume();
    expect(await sandbox.exec(['true'])).toMatchObject({ exitCode: 0 });

    const { id } = await sandbox.snapshot({ name: 'ready' });
    const next = await Sandbox.create({ snapshot: 'ready' });
    expect(await next.info()).toMatchObject({ origin: 'snapshot', snapshot: id });
    const [one, two] = await sandbox.fork({ count: 2 });
    if (one?.ok !== true || two?.ok !== true) throw new Error('a fork failed');
    expect(await one.sandbox.info()).toMatchObject({ origin: 'fork', parent: sandbox.id });
    expect(await two.sandbox.exec(['true'])).toMatchObject({ exitCode: 0 });

    await sandbox.setTimeout(60_000);
    await sandbox.setMetadata({ job: 'x' });
    const { endsAtMs, metadata } = await sandbox.info();
    expect(endsAtMs).not.toBeNull();
    expect(metadata).toEqual({ job: 'x' });
    expect(await sandbox.usage()).toEqual([]);
    await sandbox.setChannelLimits({ connections: { size: 9, refillPerSecond: 9 } });
    expect((await sandbox.channelStats()).protocolErrors).toBe(0);
    await sandbox.setDiskLimits({ opsPerSecond: 100 });
    expect((await sandbox.info()).diskLimits).toEqual({ opsPerSecond: 100 });
  });

  it('list and connect: find by metadata and ID; the handle works like the first', async () => {
    const sandbox = await Sandbox.create({ metadata: { user: '42' } });
    await Sandbox.create({ metadata: { user: '43' } });
    const list = await Sandbox.list({ metadata: { user: '42' } });
    expect(list.map(({ id }) => id)).toEqual([sandbox.id]);
    const again = await Sandbox.connect(sandbox.id, { daemon: 'require' });
    expect(await again.runCode('print(1)')).toMatchObject({ stdout: '1\n' });
    await expect(Sandbox.connect('z'.repeat(20))).rejects.toMatchObject({ code: 'not_found' });
  });

  it('connect, list: find by name', async () => {
    await using sandbox = await Sandbox.create({ name: 'web' });
    expect((await Sandbox.connect('web')).id).toBe(sandbox.id);
    expect(await Sandbox.list({ name: 'web' })).toMatchObject([{ id: sandbox.id, name: 'web' }]);
    await expect(Sandbox.connect('other')).rejects.toMatchObject({ code: 'not_found' });
  });

  it('kill: idempotent; other calls report that the sandbox has ended', async () => {
    const sandbox = await Sandbox.create();
    const other = await Sandbox.connect(sandbox.id);
    const { ended } = other;
    expect(await sandbox.kill()).toMatchObject({ cause: 'stopped' });
    expect(await sandbox.kill()).toMatchObject({ cause: 'stopped' });
    expect(await ended).toMatchObject({ cause: 'stopped' });
    await expect(sandbox.exec(['true'])).rejects.toMatchObject({ code: 'gone' });
    await expect(other.exec(['true'])).rejects.toMatchObject({ code: 'gone' });
    await expect(Sandbox.connect(sandbox.id)).rejects.toMatchObject({ code: 'gone' });
    expect(await sandbox.ended).toMatchObject({ cause: 'stopped' });
  });

  it('ended: resolves even if the sandbox ended before the call', async () => {
    const sandbox = await Sandbox.create();
    await daemon.control.remove(sandbox.id);
    expect(await sandbox.ended).toMatchObject({ cause: 'stopped' });
  });

  it('await using: ends the sandbox', async () => {
    {
      await using sandbox = await Sandbox.create();
      await sandbox.exec(['true']);
    }
    expect(await Sandbox.list()).toEqual([]);
  });

  it('url: selects the daemon; the key comes from the environment', async () => {
    const { NEUROVISOR_URL: url = '', NEUROVISOR_API_KEY: key } = await daemon.listenOnPort();
    process.env['NEUROVISOR_API_KEY'] = key;
    const sandbox = await Sandbox.create({ daemon: url as `http://${string}` });
    expect(await sandbox.exec(['true'])).toMatchObject({ exitCode: 0 });
    process.env['NEUROVISOR_API_KEY'] = '';
    await expect(Sandbox.create({ daemon: 'http://127.0.0.1:1' })).rejects.toMatchObject({
      code: 'daemon_unreachable',
    });
  });

  it('an invalid option is refused with its name', async () => {
    await expect(Sandbox.create({ cpus: 4096 })).rejects.toMatchObject({
      code: 'spec_invalid',
      message: expect.stringContaining('cpus'),
    });
  });
});
