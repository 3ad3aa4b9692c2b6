/** exec with the real agent, as an ordinary process of this machine. */
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sleep } from '../../src/base/clock.ts';
import type { GuestEvent, Process } from '../../src/machine/guest/link.ts';
import { outcome, type RunningAgent, startAgent } from '../support/guest-agent.ts';

const sh = (script: string, ...args: string[]): string[] => ['sh', '-c', script, 'sh', ...args];

/** True once the process has ended by itself (including a zombie). */
async function gone(pid: number): Promise<boolean> {
  for (let tries = 0; tries < 200; tries += 1) {
    if (!existsSync(`/proc/${pid}`)) return true;
    if (/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))) return true;
    await sleep(20);
  }
  return false;
}

async function firstLine(process: Process): Promise<string> {
  const [chunk] = await once(process.stdout, 'data');
  return String(chunk).trim();
}

describe('exec', () => {
  let agent: RunningAgent;
  beforeAll(async () => {
    agent = await startAgent({ identity: { env: { FROM_HELLO: 'yes' } } });
  });
  afterAll(async () => {
    await agent[Symbol.asyncDispose]();
  });

  it('info: versions of the agent, and its problems outside a VM', () => {
    expect(agent.guest.info.pythonVersion).toMatch(/^3\.\d+/);
    expect(agent.guest.info.kernelToInitMs).toBeNull();
    expect(agent.guest.info.problems.join(' ')).toContain('outside a VM');
  });

  it('streams: stdout and stderr stay separate, the exit code is reported', async () => {
    const result = await outcome(await agent.guest.exec({ argv: sh('echo out; echo err >&2; exit 7') }));
    expect(result).toMatchObject({ stdout: 'out\n', stderr: 'err\n', exit: { exitCode: 7 } });
  });

  it('argv: arguments reach the program unchanged, without a shell', async () => {
    const argv = ['printf', '[%s]', 'a b', '$HOME', "'", '*', ''];
    const { stdout } = await outcome(await agent.guest.exec({ argv }));
    expect(stdout).toBe("[a b][$HOME]['][*][]");
  });

  it('argv: 200 KiB of arguments and environment work', async () => {
    const long = 'x'.repeat(100_000);
    const { stdout } = await outcome(
      await agent.guest.exec({ argv: sh('echo $# $LONG | wc -c', long), env: { LONG: long } }),
    );
    expect(Number(stdout)).toBe(100_003);
  });

  it('argv: more than the kernel accepts is too_large', async () => {
    const argv = ['true', ...Array.from({ length: 30 }, () => 'x'.repeat(120_000))];
    await expect(agent.guest.exec({ argv })).rejects.toMatchObject({ code: 'too_large' });
  });

  it('environment: inference endpoint, sandbox and request variables', async () => {
    const script = 'echo $OPENAI_API_KEY $FROM_HELLO $MINE $OPENAI_BASE_URL';
    const { stdout } = await outcome(await agent.guest.exec({ argv: sh(script), env: { MINE: '1' } }));
    expect(stdout).toMatch(/^neurovisor yes 1 http:\/\/127\.0\.0\.1:\d+\/v1\n$/);
  });

  it('environment: no variable leads an SDK to an API that the endpoint does not speak', async () => {
    const { stdout } = await outcome(await agent.guest.exec({ argv: ['env'] }));
    const leading = stdout.split('\n').filter((line) => /http:\/\/127\.0\.0\.1/.test(line));
    const names = leading.map((line) => line.split('=')[0]).sort();
    expect(names).toEqual(['ANTHROPIC_BASE_URL', 'OPENAI_API_BASE', 'OPENAI_BASE_URL']);
    // Its clients add /v1 themselves, and warn about two keys.
    expect(stdout).toMatch(/^ANTHROPIC_BASE_URL=http:\/\/127\.0\.0\.1:\d+$/m);
    expect(stdout).toMatch(/^ANTHROPIC_API_KEY=neurovisor$/m);
    expect(stdout).not.toMatch(/ANTHROPIC_AUTH_TOKEN|OLLAMA/);
  });

  it('stdin: bytes and their end reach the program', async () => {
    const process = await agent.guest.exec({ argv: ['cat'] });
    process.stdin.end('line one\n');
    expect(await outcome(process)).toMatchObject({ stdout: 'line one\n', exit: { exitCode: 0 } });
  });

  it('stdin: false gives an empty input', async () => {
    const process = await agent.guest.exec({ argv: ['wc', '-c'], stdin: false });
    expect((await outcome(process)).stdout.trim()).toBe('0');
  });

  it('streams: 8 MiB of random bytes come back through cat unchanged', async () => {
    const content = randomBytes(8 * 1024 * 1024);
    const process = await agent.guest.exec({ argv: ['cat'] });
    process.stdin.end(content);
    const back = await buffer(process.stdout);
    const digest = (data: Buffer): string => createHash('sha256').update(data).digest('hex');
    expect(digest(back)).toBe(digest(content));
    expect((await process.exit).exitCode).toBe(0);
  });

  it('back-pressure: a reader that stops blocks the program, and loses no output', async () => {
    const process = await agent.guest.exec({ argv: ['head', '-c', '20000000', '/dev/zero'] });
    await sleep(300);
    expect(process.stdout.readableLength).toBeLessThan(1024 * 1024);
    expect((await buffer(process.stdout)).length).toBe(20_000_000);
    expect((await process.exit).exitCode).toBe(0);
  });

  it('outputBytesMax: output above it is discarded and truncated is set', async () => {
    const result = await outcome(
      await agent.guest.exec({ argv: ['head', '-c', '1000000', '/dev/zero'], outputBytesMax: 1234 }),
    );
    expect(result.stdout.length).toBe(1234);
    expect(result.exit).toMatchObject({ exitCode: 0, truncated: true });
  });

  it('pty: the terminal has the requested size and can be resized', async () => {
    const script = 'tty; stty size; read line; stty size; echo "<$line>"';
    const process = await agent.guest.exec({ argv: sh(script), pty: { cols: 100, rows: 30 } });
    let text = '';
    process.stdout.on('data', (data) => {
      text += String(data);
    });
    while (!text.includes('30 100')) await once(process.stdout, 'data');
    process.resize({ cols: 60, rows: 20 });
    await sleep(200);
    process.stdin.write('typed\n');
    expect((await process.exit).exitCode).toBe(0);
    expect(text).toMatch(/^\/dev\/pts\/\d+\r\n30 100\r\n/);
    expect(text).toContain('20 60\r\n<typed>\r\n');
  });

  it('pty: Ctrl-C interrupts the foreground program', async () => {
    const process = await agent.guest.exec({ argv: ['cat'], pty: { cols: 80, rows: 24 } });
    process.stdout.on('data', () => undefined);
    process.stdin.write('ready\n');
    await once(process.stdout, 'data');
    process.stdin.write('\x03');
    expect(await process.exit).toMatchObject({ exitCode: null, signal: 'SIGINT' });
  });

  it('kill: a signal reaches the whole process group', async () => {
    const process = await agent.guest.exec({ argv: sh('sleep 1000 & echo $!; wait') });
    const child = Number(await firstLine(process));
    process.kill('SIGTERM');
    expect(await process.exit).toMatchObject({ exitCode: null, signal: 'SIGTERM' });
    expect(await gone(child)).toBe(true);
  });

  it('timeoutMs: SIGTERM, then SIGKILL for a program that ignores it; the exit says timedOut', async () => {
    const process = await agent.guest.exec({
      argv: sh("trap '' TERM; echo $$; while true; do sleep 0.05; done"),
      timeoutMs: 300,
    });
    expect((await outcome(process)).exit).toMatchObject({
      exitCode: null,
      signal: 'SIGKILL',
      timedOut: true,
      oomKilled: false,
    });
  });

  it('exit: a grandchild that keeps the pipes open does not delay it (G19)', async () => {
    const process = await agent.guest.exec({ argv: sh('sleep 60 & echo $!; exit 4') });
    const result = await outcome(process);
    expect(result.exit.exitCode).toBe(4);
    const left = Number(result.stdout);
    expect(existsSync(`/proc/${left}`)).toBe(true);
    globalThis.process.kill(left, 'SIGKILL');
  });

  it('disconnect: the program is killed when its connection ends', async () => {
    const abort = new AbortController();
    const process = await agent.guest.exec({ argv: sh('echo $$; sleep 1000') }, abort.signal);
    const pid = Number(await firstLine(process));
    abort.abort();
    await expect(process.exit).rejects.toMatchObject({ code: 'cancelled' });
    expect(await gone(pid)).toBe(true);
  });

  it('detached: the program continues, is listed, can be attached to and signaled', async () => {
    const abort = new AbortController();
    const argv = sh('while read line; do echo "got $line"; done; exit 9');
    const first = await agent.guest.exec({ argv, detached: true, tag: 'mine' }, abort.signal);
    abort.abort();
    await expect(first.exit).rejects.toMatchObject({ code: 'cancelled' });
    // The previous test's program may still be ending.
    const listed = (await agent.guest.processes()).find(({ pid }) => pid === first.pid);
    expect(listed).toMatchObject({ tag: 'mine', kind: 'exec', detached: true });
    const again = await agent.guest.attach(first.pid);
    again.stdin.end('hello\n');
    expect(await outcome(again)).toMatchObject({ stdout: 'got hello\n', exit: { exitCode: 9 } });
    expect(await agent.guest.signal(first.pid, 'SIGTERM')).toBe(false);
  });

  it('refusals: unknown program, directory, user, and bad fields are typed errors', async () => {
    const { guest } = agent;
    await expect(guest.exec({ argv: ['no-such-program'] })).rejects.toMatchObject({
      code: 'not_found',
      message: expect.stringContaining('no-such-program'),
    });
    await expect(guest.exec({ argv: ['ls'], cwd: '/no/such' })).rejects.toMatchObject({
      code: 'not_found',
      message: expect.stringContaining("'/no/such'"),
    });
    await expect(guest.exec({ argv: ['ls'], user: 'nobody-here' })).rejects.toMatchObject({ code: 'not_found' });
    await expect(guest.exec({ argv: [] })).rejects.toMatchObject({ code: 'invalid_request' });
    await expect(guest.exec({ argv: ['/etc/passwd'] })).rejects.toMatchObject({ code: 'permission_denied' });
  });

  it('concurrency: 20 programs at once, each with its own output', async () => {
    const results = await Promise.all(
      Array.from({ length: 20 }, async (_, index) => {
        const process = await agent.guest.exec({ argv: sh('sleep 0.2; cat; exit $1', `${index}`) });
        process.stdin.end(`input ${index}`);
        return await outcome(process);
      }),
    );
    expect(results.map((result) => result.stdout)).toEqual(Array.from({ length: 20 }, (_, index) => `input ${index}`));
    expect(results.map((result) => result.exit.exitCode)).toEqual(Array.from({ length: 20 }, (_, index) => index));
  });

  it('events: an exit also arrives on the control connection', async () => {
    const ended = new Promise<GuestEvent>((resolve) => {
      const stop = agent.guest.events((event) => {
        if (event.type === 'exit' && event.exit.exitCode === 42) {
          stop();
          resolve(event);
        }
      });
    });
    const process = await agent.guest.exec({ argv: sh('exit 42') });
    await outcome(process);
    expect(await ended).toMatchObject({ type: 'exit', pid: process.pid });
  });

  it('hygiene: a program inherits no descriptor of the agent', async () => {
    const { stdout } = await outcome(await agent.guest.exec({ argv: ['ls', '/proc/self/fd'] }));
    // 3 is the directory that ls reads.
    expect(stdout.trim().split('\n')).toEqual(['0', '1', '2', '3']);
  });

  it('agent: after all these operations it has no more descriptors than before', async () => {
    const open = async (): Promise<number> => {
      await sleep(1500);
      return readdirSync(`/proc/${agent.child.pid}/fd`).length;
    };
    const before = await open();
    await Promise.all(Array.from({ length: 10 }, async () => outcome(await agent.guest.exec({ argv: ['true'] }))));
    expect(await open()).toBe(before);
    expect(agent.console()).toBe('');
  });

  it('close: running operations end, and closed says why', async () => {
    await using other = await startAgent();
    const process = await other.guest.exec({ argv: ['sleep', '1000'] });
    other.guest.close();
    await expect(process.exit).rejects.toMatchObject({ code: 'connection_lost' });
    expect(await other.guest.closed).toMatchObject({ reason: 'closed' });
    // For the guest, the host is lost: the next one may attach to its programs.
    await sleep(1000);
    expect(existsSync(`/proc/${process.pid}`)).toBe(true);
    expect(existsSync(join(other.dir, 'ch_1024'))).toBe(true);
    await other.listener.close();
    expect(existsSync(join(other.dir, 'ch_1024'))).toBe(false);
  });
});
