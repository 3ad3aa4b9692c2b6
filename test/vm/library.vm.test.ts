/** The TypeScript library as a user writes with it. */
import { text } from 'node:stream/consumers';
import { describe, expect, it } from 'vitest';
import { CodedError, Sandbox } from '../../src/index.ts';

process.env['NEUROVISOR_UPSTREAM'] = 'engine';

describe('Sandbox', () => {
  it('create, runCode, exec, files, limits and kill work in sequence', async () => {
    const env = { COLOUR: 'green' };
    const sandbox = await Sandbox.create({ memoryMib: 256, env, autoResume: false });
    expect(sandbox.id).toMatch(/^[a-z0-9]{20}$/);
    expect((await sandbox.info()).status).toBe('running');
    expect(sandbox.timings?.totalMs).toBeGreaterThan(0);

    const code = "import os, sys; print(os.environ['COLOUR'], sys.argv[1:]); sys.exit(3)";
    expect(await sandbox.runCode(code, { args: ['a b'] })).toMatchObject({
      exitCode: 3,
      stdout: "green ['a b']\n",
      stderr: '',
    });
    const pieces: string[] = [];
    const cat = await sandbox.exec(['cat'], {
      stdin: 'through stdin',
      onStdout: (chunk) => pieces.push(chunk.toString()),
    });
    expect(cat).toMatchObject({ exitCode: 0, stdout: 'through stdin' });
    expect(pieces.join('')).toBe('through stdin');

    const bytes = Buffer.from([0, 255, 10, 13, 128]);
    await sandbox.files.write('data/b.bin', bytes);
    expect(await sandbox.files.readAll('data/b.bin')).toEqual(bytes);
    expect((await sandbox.files.list('data')).map((entry) => entry.name)).toEqual(['b.bin']);

    await sandbox.setChannelLimits({ guestToHostBytes: { size: 1 << 20, refillPerSecond: 10 << 20 } });
    expect((await sandbox.channelStats()).connectionsOpened).toBeGreaterThan(3);

    const program = await sandbox.start(['sh', '-c', 'head -c 100000 /dev/zero; read a; exit 5'], { detached: true });
    program.stdout.resume();
    await expect.poll(async () => (await sandbox.output(program.pid)).to.stdout).toBe(100_000);
    await sandbox.pause();
    await expect(sandbox.exec(['true'])).rejects.toMatchObject({ code: 'not_ready' });
    await sandbox.resume();
    expect(await sandbox.exec(['true'])).toMatchObject({ exitCode: 0 });

    const again = await sandbox.attach(program.pid, { from: { stdout: 99_990, stderr: 0 } });
    expect(again.from).toEqual({ stdout: 99_990, stderr: 0 });
    again.stdin.end('go\n');
    expect(await text(again.stdout)).toBe('\0'.repeat(10));
    expect(await sandbox.wait(program.pid)).toMatchObject({ exitCode: 5 });
    expect((await sandbox.output(program.pid)).from.stdout).toBe(100_000 - 64 * 1024);

    const end = await sandbox.kill();
    expect(end.cause).toBe('stopped');
    await expect(sandbox.exec(['true'])).rejects.toBeInstanceOf(CodedError);
  });

  it('runCode: an aborted signal kills the program and rejects', async () => {
    await using sandbox = await Sandbox.create({ memoryMib: 256 });
    const aborter = new AbortController();
    setTimeout(() => aborter.abort(), 500);
    await expect(sandbox.exec(['sleep', '600'], { signal: aborter.signal })).rejects.toMatchObject({
      name: 'AbortError',
    });
    const count = 'grep -lx sleep /proc/[0-9]*/comm | wc -l';
    expect(await sandbox.exec(['sh', '-c', count])).toMatchObject({ stdout: '0\n' });
  });

  it('two sandboxes of one process share no files', async () => {
    await using one = await Sandbox.create({ memoryMib: 192 });
    await using two = await Sandbox.create({ memoryMib: 192 });
    await one.files.write('secret', 'canary');
    await expect(two.files.readAll('secret')).rejects.toMatchObject({ code: 'not_found' });
    const draw = 'import os, uuid; print(os.urandom(8).hex(), uuid.uuid4(), os.uname().nodename)';
    const [a, b] = await Promise.all([one.runCode(draw), two.runCode(draw)]);
    for (const [n, value] of a.stdout.split(' ').entries()) {
      expect(b.stdout.split(' ')[n]).not.toBe(value);
    }
  });

  it('create: an invalid option is refused by name', async () => {
    await expect(Sandbox.create({ cpus: 4096 })).rejects.toMatchObject({
      code: 'spec_invalid',
      message: expect.stringContaining('cpus'),
    });
  });
});
