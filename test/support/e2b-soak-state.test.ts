import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { daemonState, differences } from './e2b-soak-state.ts';

it('daemonState: shows a leaked process, open file, socket and file', async () => {
  const homeDir = await mkdtemp(join(tmpdir(), 'nv-soak-state-'));
  onTestFinished(() => rm(homeDir, { recursive: true, force: true }));
  const places = {
    pid: process.pid,
    homeDir,
    runDir: join(homeDir, 'run'),
    tmpDir: join(homeDir, 'tmp'),
    reportPath: join(homeDir, 'memory.json'),
  };
  const before = await daemonState(places);
  expect(differences(before, await daemonState(places))).toEqual([]);

  const child = spawn('sleep', ['60'], { stdio: 'ignore' });
  onTestFinished(() => void child.kill());
  await once(child, 'spawn');
  await writeFile(join(homeDir, 'left'), '');
  await using _file = await open(join(homeDir, 'left'));
  const server = createServer();
  onTestFinished(() => void server.close());
  server.listen(join(homeDir, 'left.sock'));
  await once(server, 'listening');
  const after = differences(before, await daemonState(places));
  expect(after.join('\n')).toContain(`processes: + ${child.pid} sleep`);
  expect(after.join('\n')).toMatch(/^files: \+ left, \+ left\.sock$/m);
  expect(after.join('\n')).toMatch(/^sockets: \+ .*left\.sock$/m);
  expect(after.join('\n')).toMatch(/^open files: file: \d+, then \d+$/m);
});
