/** The processor that llama.cpp can load here, detected in a child process. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findProcessor } from '../../src/inference/engine/processor.ts';

let dir = '';
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nv-processor-'));
});
afterAll(() => rm(dir, { recursive: true }));

async function child(name: string, code: string): Promise<string> {
  const path = join(dir, `${name}.mjs`);
  await writeFile(path, code);
  return path;
}

describe('findProcessor', () => {
  it('with the installed library: the CPU can be loaded', async () => {
    expect(await findProcessor('cpu')).toEqual({ gpu: 'cpu', device: null });
  });

  it('the last line of the child counts, among llama.cpp’s output', async () => {
    const answer = { ok: true, gpu: 'cuda', device: 'NVIDIA H100' };
    const code = `console.log('ggml_cuda_init: found 1 device');console.log(${JSON.stringify(JSON.stringify(answer))})`;
    expect(await findProcessor('auto', await child('cuda', code))).toEqual({ gpu: 'cuda', device: 'NVIDIA H100' });
  });

  it('a failure of the child has its code and remedy', async () => {
    const answer = { ok: false, code: 'gpu_unavailable', message: 'no', remedy: 'install' };
    const path = await child('failed', `console.log(${JSON.stringify(JSON.stringify(answer))})`);
    await expect(findProcessor('cuda', path)).rejects.toMatchObject(
      expect.objectContaining({ code: 'gpu_unavailable', message: 'no', remedy: 'install' }),
    );
  });

  it.each([
    ['killed', "process.kill(process.pid, 'SIGSEGV')", 'SIGSEGV'],
    ['status', 'process.exit(3)', 'exit status 3'],
    ['silent', '', 'no answer'],
  ])('a child that ends without an answer (%s) is an error with a remedy', async (name, code, how) => {
    await expect(findProcessor('auto', await child(name, code))).rejects.toMatchObject({
      code: 'engine_crashed',
      message: `llama.cpp can't be loaded (${how})`,
      remedy: expect.stringContaining('NEUROVISOR_GPU=cpu'),
    });
  });

  it('the environment of the child is the engine’s, without keys', async () => {
    const code = `const gpu = Object.keys(process.env).some((name) => name.includes('KEY')) ? 'cuda' : 'cpu';
      console.log(JSON.stringify({ ok: true, gpu, device: null }))`;
    process.env['NEUROVISOR_UPSTREAM_KEY'] = 'secret';
    try {
      expect((await findProcessor('auto', await child('env', code))).gpu).toBe('cpu');
    } finally {
      delete process.env['NEUROVISOR_UPSTREAM_KEY'];
    }
  });
});
