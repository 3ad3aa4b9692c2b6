/** The preloaded delays, in a Node.js of their own. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { DELAYS_VARIABLE, delayed, delaysFrom } from './delay-plan.ts';

const SCRIPT = `
import { stat } from 'node:fs/promises';
import { spawn } from 'node:child_process';
import { createServer, connect } from 'node:net';
const order = [];
const first = (name) => (value) => { order.push(name); return value; };
// Each file operation is delayed by itself, so that a later one can overtake it.
let overtaken = 0;
for (let n = 0; n < 40; n++) {
  const ends = [];
  await Promise.all([stat('.').then(() => ends.push(1)), stat('.').then(() => ends.push(2))]);
  if (ends[0] === 2) overtaken += 1;
}
const began = performance.now();
await new Promise((resolve) => setTimeout(resolve, 20));
const early = performance.now() - began < 19;
const child = spawn(process.execPath, ['-e', ''], { env: {} });
await new Promise((resolve) => child.on('exit', first('exit')).on('close', first('close')).on('close', resolve));
const server = createServer((socket) => socket.end('served')).listen(0);
const text = await new Promise((resolve) => {
  connect(server.address().port).setEncoding('utf8').on('data', resolve);
});
server.close();
console.log(JSON.stringify({ overtaken, early, order, text }));
`;

async function report(env: Readonly<Record<string, string | undefined>>) {
  const argv = ['--input-type=module', '--disable-warning=ExperimentalWarning', '-e', SCRIPT];
  const { stdout } = await promisify(execFile)(process.execPath, argv, { env });
  return JSON.parse(stdout) as { overtaken: number; early: boolean; order: string[]; text: string };
}

it('delays: file operations overtake each other; what the system guarantees stays', async () => {
  const env = { PATH: process.env['PATH'], NEUROVISOR_SEED: '7' };
  const seen = await report(delayed(env, 6));
  expect(seen.overtaken).toBeGreaterThan(5);
  expect(seen).toMatchObject({ early: false, order: ['exit', 'close'], text: 'served' });
});

it('delaysFrom: the same seed gives the same delays, none longer than the limit', () => {
  const env = { [DELAYS_VARIABLE]: '6', NEUROVISOR_SEED: '7' };
  const take = (next: (() => number) | null): number[] => Array.from({ length: 50 }, () => next?.() ?? -1);
  const delays = take(delaysFrom(env));
  expect(take(delaysFrom(env))).toEqual(delays);
  expect(take(delaysFrom({ ...env, NEUROVISOR_SEED: '8' }))).not.toEqual(delays);
  expect(Math.max(...delays)).toBeLessThan(6);
  expect(Math.min(...delays)).toBeGreaterThanOrEqual(0);
  expect(delaysFrom({})).toBeNull();
  expect(() => delaysFrom({ [DELAYS_VARIABLE]: 'soon' })).toThrow('use 1 to 1000');
});
