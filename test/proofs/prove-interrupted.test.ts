/** Cleanup when `prove` is interrupted. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { cli, ROOT } from '../support/cli.ts';
import { eventually } from '../support/eventually.ts';

it.each(['SIGINT', 'SIGTERM'] as const)('prove: %s leaves no folder and prints no trace', async (signal) => {
  const dir = await mkdtemp(join(tmpdir(), 'nv-interrupted-'));
  try {
    const run = cli(['prove', 'egress'], { env: { TMPDIR: dir } });
    const records = async (): Promise<string[]> =>
      (await readdir(dir, { recursive: true })).filter((name) => name.includes('network-'));
    await eventually(async () => expect(await records()).not.toEqual([]));
    run.kill(signal);
    const { status, stderr } = await run.result;
    expect(status).toBe(signal === 'SIGINT' ? 130 : 143);
    expect(stderr).not.toMatch(/EPIPE|Error:/);
    expect(await readdir(dir)).toEqual([]);
  } finally {
    await rm(dir, { recursive: true });
  }
});

it('an actor whose parent is gone ends silently', async () => {
  const module = JSON.stringify(join(ROOT, 'prove/actor.ts'));
  const code = `import(${module}).then(({ act }) => act({ never: () => 1 }));`;
  const child = spawn(process.execPath, ['-e', code], { stdio: ['pipe', 'pipe', 'pipe'] });
  let stderr = '';
  child.stderr.on('data', (bytes: Buffer) => {
    stderr += bytes.toString();
  });
  child.stdout.destroy();
  // Its input stays open: only a failed answer shows that the parent is gone.
  child.stdin.on('error', () => undefined);
  child.stdin.write(`${JSON.stringify({ action: 'never', values: {} })}\n`);
  await once(child, 'close');
  expect(stderr).toBe('');
});

it('an actor whose parent goes while its threads load libraries prints no trace', async () => {
  const actor = JSON.stringify(join(ROOT, 'prove/actor.ts'));
  const library = JSON.stringify(join(ROOT, 'src/sys/libc.ts'));
  const code = `
    const { Worker } = require('node:worker_threads');
    const start = () => new Worker('import(' + ${JSON.stringify(library)} + ')', { eval: true });
    const again = () => start().once('exit', again);
    import(${actor}).then(({ act }) => act({ load: () => { for (let n = 0; n < 12; n++) again(); } }));`;
  for (let n = 0; n < 20; n++) {
    const child = spawn(process.execPath, ['-e', code], { stdio: ['pipe', 'pipe', 'pipe'] });
    let stderr = '';
    child.stderr.on('data', (bytes: Buffer) => {
      stderr += bytes.toString();
    });
    child.stdin.write(`${JSON.stringify({ action: 'load', values: {} })}\n`);
    await once(child.stdout, 'data');
    await setTimeout(7 * n);
    child.stdin.end();
    await once(child, 'close');
    expect(stderr).toBe('');
  }
});
