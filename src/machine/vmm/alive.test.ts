import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { expect, it } from 'vitest';
import { isPidAlive } from './alive.ts';

it('isPidAlive: true while the process runs, false at once after a kill and when it is gone', async () => {
  const child = spawn('sleep', ['60']);
  const pid = child.pid ?? 0;
  expect(isPidAlive(pid)).toBe(true);
  child.kill('SIGKILL');
  // Without a turn of the event loop, Node.js can't have reaped it.
  const until = performance.now() + 60_000;
  while (isPidAlive(pid) && performance.now() < until);
  expect(isPidAlive(pid)).toBe(false);
  expect(child.signalCode).toBeNull();
  await once(child, 'exit');
  expect(isPidAlive(pid)).toBe(false);
  expect(isPidAlive(null)).toBe(false);
});
