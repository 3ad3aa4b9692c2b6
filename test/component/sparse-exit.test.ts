/** The copying threads must not outlive the work of a process. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { ROOT } from '../support/cli.ts';

it('warmSparseThreads: a process does not end while a thread is loading, which would abort it', async () => {
  const module = JSON.stringify(join(ROOT, 'src/sys/sparse-threads.ts'));
  // A thread that starts slowly while the main thread is idle.
  const slow = `import { isMainThread } from 'node:worker_threads';
    if (!isMainThread) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 500)`;
  const work = `import(${module}).then(({ warmSparseThreads, threadsThatLoad }) => {
    warmSparseThreads();
    const begun = threadsThatLoad();
    process.on('exit', () => process.stdout.write([begun > 0, threadsThatLoad()].join()));
  })`;
  const args = ['--import', `data:text/javascript,${encodeURIComponent(slow)}`, '-e', work];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  let stdout = '';
  child.stdout.on('data', (bytes: Buffer) => {
    stdout += bytes.toString();
  });
  const [status] = await once(child, 'close');
  expect({ status, stdout }).toEqual({ status: 0, stdout: 'true,0' });
});

it('warmSparseThreads: idle threads do not keep a process alive, with or without a copy', async () => {
  const module = JSON.stringify(join(ROOT, 'src/sys/sparse-threads.ts'));
  const work = `import(${module}).then(async ({ warmSparseThreads, digestSparse }) => {
    warmSparseThreads();
    if (process.argv[1] === 'work') await digestSparse(process.execPath);
    process.stdout.write('over');
  })`;
  for (const what of ['none', 'work']) {
    const child = spawn(process.execPath, ['-e', work, what], { stdio: ['ignore', 'pipe', 'inherit'] });
    await once(child.stdout, 'data');
    // The process ends at once or hangs forever.
    const giveUp = setTimeout(() => child.kill('SIGKILL'), 10_000);
    const [status] = await once(child, 'exit');
    clearTimeout(giveUp);
    expect({ what, status }).toEqual({ what, status: 0 });
  }
});
