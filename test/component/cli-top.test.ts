/** `neurovisor top` on a real pseudo-terminal, in a pipe, and as JSON. */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import type { TopFrame } from '../../src/cli/top/frame.ts';
import { cli, ROOT } from '../support/cli.ts';
import { type FakeDaemon, startFakeDaemon } from '../support/fake-daemon.ts';
import { onTerminal } from '../support/terminal.ts';

let daemon: FakeDaemon;
let id: string;

beforeAll(async () => {
  daemon = await startFakeDaemon();
  ({ id } = await daemon.control.create({}));
  daemon.loads.push({
    id,
    state: 'ready',
    memoryBytes: 500 * MIB,
    modelRequests: 2,
    tokens: 77,
    lastPressure: null,
    lastOom: null,
  });
});
afterAll(() => daemon[Symbol.asyncDispose]());

const topOn = (env = daemon.env, ...words: string[]) =>
  onTerminal([process.execPath, join(ROOT, 'src/cli/main.ts'), 'top', '--interval', '100ms', ...words], env);

const ESC = '\x1b';
const LEFT = '\x1b[?25h\x1b[?1049l';

/** The only child of a process. */
async function childOf(pid: number): Promise<number> {
  const tasks = await readdir(`/proc/${pid}/task`);
  const lists = tasks.map((task) => readFile(`/proc/${pid}/task/${task}/children`, 'utf8'));
  return Number((await Promise.all(lists)).join(' ').trim().split(' ')[0]);
}

describe('top on a terminal', () => {
  it('shows sandboxes and events; q leaves and restores the terminal', async () => {
    const terminal = topOn();
    await terminal.sees('\x1b[?1049h');
    await terminal.sees(id);
    const other = await daemon.control.create({});
    await terminal.sees(`${other.id}  running (pool)`);
    await daemon.control.remove(other.id);
    await terminal.sees(`${other.id}  stopped: removed`);
    terminal.type('s');
    await terminal.sees('s sort (tokens)');
    terminal.type('r');
    await terminal.sees('s sort (tokens, reversed)');
    terminal.type('q');
    expect(await terminal.ended).toBe(0);
    expect(terminal.screen()).toContain(LEFT);
    expect(terminal.screen()).toContain('terminal restored: True');
  });

  it('redraws at another size, no wider than the screen', async () => {
    const terminal = topOn();
    await terminal.sees(id);
    const before = terminal.screen().length;
    process.kill(terminal.pid, 'SIGUSR1');
    await terminal.sees('\x1b[2J');
    await terminal.sees('\x1b[12;1H');
    terminal.type('q');
    expect(await terminal.ended).toBe(0);
    const after = terminal.screen().slice(before);
    const drawn = after.slice(after.indexOf('\x1b[2J'), after.indexOf(LEFT));
    const lines = drawn.split(new RegExp(`${ESC}\\[\\d+;1H`)).map(stripVTControlCharacters);
    expect(lines.length).toBeGreaterThan(8);
    for (const line of lines) expect(line.length).toBeLessThanOrEqual(60);
  });

  it.each(['SIGTERM', 'SIGHUP'] as const)('%s restores the terminal', async (signal) => {
    const terminal = topOn();
    await terminal.sees(id);
    process.kill(await childOf(terminal.pid), signal);
    await terminal.ended;
    expect(terminal.screen()).toContain(LEFT);
    expect(terminal.screen()).toContain('terminal restored: True');
  });

  it('restores the terminal after a crash', async () => {
    const crash = "process.on('SIGUSR2', () => { throw new Error('as a fault of ours') })";
    const NODE_OPTIONS = `--import data:text/javascript,${encodeURIComponent(crash)}`;
    const terminal = topOn({ ...daemon.env, NODE_OPTIONS });
    await terminal.sees(id);
    process.kill(await childOf(terminal.pid), 'SIGUSR2');
    expect(await terminal.ended).not.toBe(0);
    expect(terminal.screen()).toContain(LEFT);
    expect(terminal.screen()).toContain('as a fault of ours');
    expect(terminal.screen()).toContain('terminal restored: True');
  });

  it('handles keys that arrive together', async () => {
    const terminal = topOn();
    await terminal.sees('s sort (memory)');
    terminal.type('srs');
    await terminal.sees('s sort (age, reversed)');
    terminal.type('\x03');
    expect(await terminal.ended).toBe(0);
  });

  it('redraws the screen when resumed after a stop', async () => {
    const terminal = topOn();
    await terminal.sees(id);
    process.kill(await childOf(terminal.pid), 'SIGCONT');
    await terminal.sees('\x1b[?1049h');
    await terminal.sees(id);
    terminal.type('q');
    expect(await terminal.ended).toBe(0);
    expect(terminal.screen()).toContain('terminal restored: True');
  });

  it('prints one frame on a terminal that cannot place the cursor', async () => {
    const terminal = topOn({ ...daemon.env, TERM: 'dumb' });
    expect(await terminal.ended).toBe(0);
    expect(terminal.screen()).toContain(id);
    expect(terminal.screen()).not.toContain(ESC);
  });

  it('reports a daemon that stops; Ctrl-C leaves', async () => {
    await using other = await startFakeDaemon();
    const terminal = topOn(other.env);
    await terminal.sees('sandboxes  none');
    await other.stop();
    await terminal.sees('no daemon is running');
    terminal.type('\x03');
    expect(await terminal.ended).toBe(0);
    expect(terminal.screen()).toContain('terminal restored: True');
  });
});

describe('top without a terminal', () => {
  it('prints one frame without control characters', async () => {
    const { status, stdout } = await cli(['top'], { env: { ...daemon.env } }).result;
    expect(status).toBe(0);
    expect(stdout).toMatch(new RegExp(`${id} +running +ready +pool +1 +█+░?!  +500/512 MiB`));
    expect(stdout).not.toContain('\x1b');
  });

  it('-o json: prints one frame, over a port, too', async () => {
    const env = { ...daemon.env, ...(await daemon.listenOnPort()) };
    const { status, stdout } = await cli(['top', '-o', 'json'], { env }).result;
    expect(status).toBe(0);
    const frame = JSON.parse(stdout) as TopFrame;
    expect(frame.sandboxes).toMatchObject([{ id, phase: 'ready', tokens: 77, modelRequests: 2, pressure: 'high' }]);
    expect(frame.memory.pressure).toEqual({ some: 0.2, full: 0.01 });
  });

  it('-o json: contains memory pressure and the last events of the daemon', async () => {
    await using other = await startFakeDaemon();
    const { id: sandbox } = await other.control.create({});
    const amount = { source: 'guest', memoryBytes: 95, limitBytes: 100 } as const;
    const atMs = Date.now();
    other.loads.push({
      id: sandbox,
      state: 'ready',
      memoryBytes: 1,
      modelRequests: 0,
      tokens: 0,
      lastPressure: { type: 'near_oom', ...amount, atMs },
      lastOom: null,
    });
    other.events.push({ type: 'near_oom', ...amount, sandbox, seq: 1, atMs });
    const { stdout } = await cli(['top', '-o', 'json'], { env: { ...other.env } }).result;
    const frame = JSON.parse(stdout) as TopFrame;
    expect(frame.sandboxes[0]?.shortage).toEqual({ type: 'near_oom' });
    const text = '95 B of 100 B (guest)';
    expect(frame.events).toEqual([{ atMs, sandbox, type: 'near_oom', text }]);
  });

  it('a missing daemon or a usage error exits with its status', async () => {
    await using gone = await startFakeDaemon();
    await gone.stop();
    expect((await cli(['top'], { env: { ...gone.env } }).result).status).toBe(125);
    const { status, stderr } = await cli(['top', '--interval', '1ms'], { env: { ...daemon.env } }).result;
    expect([status, stderr]).toEqual([2, expect.stringContaining('--interval')]);
  });
});
