/** The watch of the event loop in a process of its own: long turns, their place, and its end. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { ROOT } from '../support/cli.ts';

const PROGRAM = `
import { readdirSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { url } from 'node:inspector';
import { setTimeout } from 'node:timers/promises';
const [{ systemClock }, { silentLog }, { LongTurns }, { LoopWatch }] = await Promise.all(
  ['base/clock', 'base/log', 'host/telemetry/long-turns', 'host/telemetry/loop-watch'].map(
    (name) => import(process.argv[1] + '/src/' + name + '.ts'),
  ),
);
const turns = new LongTurns();
const list = () => turns.list(systemClock.wall());
function takeLongTurn() {
  const endMs = performance.now() + 100;
  while (performance.now() < endMs);
}
const threads = () => readdirSync('/proc/self/task').length;
// All threads of libuv.
await Promise.all(Array.from({ length: 16 }, () => stat('/')));
const before = threads();
const watch = new LoopWatch(turns, systemClock, silentLog);
while (!list().some(({ place }) => place?.startsWith('takeLongTurn '))) {
  takeLongTurn();
  await setTimeout(60);
}
const found = { turns: list(), url: url(), during: threads() - before };
if (process.argv[2] === 'close') {
  await watch.close();
  while (threads() > before) await setTimeout(10);
  const { length } = list();
  takeLongTurn();
  await setTimeout(60);
  found.later = list().length - length;
}
console.log(JSON.stringify(found));
`;

interface Found {
  readonly turns: readonly { ms: number; cpuMs: number; place: string | null }[];
  readonly url?: string;
  readonly during: number;
  readonly later?: number;
}

/** Resolves when the process has ended by itself. */
async function watchTurns(...args: string[]): Promise<Found> {
  const program = ['--input-type=module', '-e', PROGRAM, pathToFileURL(join(ROOT)).href, ...args];
  const { stdout, stderr } = await promisify(execFile)(process.execPath, program);
  expect(stderr).toBe('');
  return JSON.parse(stdout) as Found;
}

it('LoopWatch: finds long turns and the code that took them, without a port, and holds up no exit', async () => {
  const { turns, url, during } = await watchTurns();
  expect(turns.map(({ place }) => place)).toContainEqual(expect.stringMatching(/^takeLongTurn \(\S+:\d+:\d+\)$/));
  expect(turns[0]?.ms).toBeGreaterThan(50);
  expect(Math.max(...turns.map(({ cpuMs }) => cpuMs))).toBeGreaterThan(0);
  expect(url).toBeUndefined();
  expect(during).toBeGreaterThan(0);
});

it('LoopWatch: its end leaves no thread and no measurement behind', async () => {
  expect((await watchTurns('close')).later).toBe(0);
});

/** A process that is killed when its loop hangs for 500 ms. @param hang the code */
async function watched(hang: string): Promise<{ signal: string | null; stderr: string }> {
  const program = `${PROGRAM.slice(0, PROGRAM.indexOf('const turns'))}
    new LoopWatch(new LongTurns(), systemClock, silentLog, 500);
    await setTimeout(300);
    ${hang}
    await setTimeout(300);`;
  return await new Promise((resolve) => {
    const args = ['--input-type=module', '-e', program, pathToFileURL(join(ROOT)).href];
    execFile(process.execPath, args, { timeout: 20_000 }, (error, _stdout, stderr) =>
      resolve({ signal: error?.signal ?? null, stderr }),
    );
  });
}

it.each([
  ['in JavaScript', 'for (;;);'],
  ['in a system call', 'Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);'],
])('LoopWatch: kills a process that hangs %s', async (_where, hang) => {
  const expected = { signal: 'SIGKILL', stderr: 'neurovisor error: the daemon hangs, and is killed\n' };
  expect(await watched(hang)).toEqual(expected);
});

it('LoopWatch: a long turn, and a process that was stopped, are no hang', async () => {
  const turn = 'for (const end = performance.now() + 200; performance.now() < end; );';
  const stop = `const { spawn } = await import('node:child_process');
    spawn('sh', ['-c', 'kill -STOP ' + process.pid + '; sleep 1.5; kill -CONT ' + process.pid]);
    await setTimeout(1800);`;
  expect(await watched(`${turn} ${stop}`)).toEqual({ signal: null, stderr: '' });
});
