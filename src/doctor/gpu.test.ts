import { describe, expect, it } from 'vitest';
import type { ProcessorInfo } from '../engine/backend.ts';
import { EngineError } from '../engine/errors.ts';
import { checkGpu } from './gpu.ts';

const sources = (loaded: ProcessorInfo | EngineError, ...devices: string[]) => ({
  findProcessor: async () => {
    if (loaded instanceof Error) throw loaded;
    return loaded;
  },
  hasDevice: (path: string) => devices.includes(path),
});
const CPU: ProcessorInfo = { gpu: 'cpu', device: null };
const NVIDIA = '/dev/nvidia0';
const RENDER = '/dev/dri/renderD128';

describe('checkGpu', () => {
  it.each<[ProcessorInfo, string]>([
    [{ gpu: 'cuda', device: 'NVIDIA H100' }, 'the engine uses CUDA on NVIDIA H100'],
    [{ gpu: 'vulkan', device: null }, 'the engine uses Vulkan'],
  ])('reports the backend that was loaded: %j', async (loaded, detail) => {
    expect(await checkGpu({ gpu: 'auto' }, sources(loaded))).toEqual({
      verdict: 'ok',
      detail,
      remedy: null,
    });
  });

  it.each([
    [[NVIDIA, RENDER], 'an NVIDIA device', 'no CUDA backend', 'linux-x64-cuda'],
    [[RENDER], 'a render device', 'no Vulkan backend', 'linux-x64-vulkan'],
  ])(
    'devices %j without a backend: reported, with the package to install',
    async (devices, ...texts) => {
      const [device, backend, remedy] = texts;
      const found = await checkGpu({ gpu: 'auto' }, sources(CPU, ...devices));
      expect(found).toMatchObject({
        verdict: 'limited',
        detail: expect.stringMatching(`${device}.*CPU.*${backend}`),
        remedy: expect.stringContaining(remedy),
      });
    },
  );

  it('no device: the CPU, with the remedies for a GPU', async () => {
    expect(await checkGpu({ gpu: 'auto' }, sources(CPU))).toMatchObject({
      verdict: 'limited',
      detail: 'no GPU device; the engine computes on the CPU',
      remedy: expect.stringContaining('host with a GPU'),
    });
  });

  it('NEUROVISOR_GPU=cpu: fine, even with a device', async () => {
    expect(await checkGpu({ gpu: 'cpu' }, sources(CPU, NVIDIA))).toMatchObject({
      verdict: 'ok',
      detail: expect.stringContaining('NEUROVISOR_GPU'),
    });
  });

  it.each(['engine_missing', 'gpu_unavailable', 'engine_crashed'] as const)(
    'an engine that fails to load (%s): the error with its remedy',
    async (code) => {
      const error = new EngineError(code, 'no', { remedy: 'do this' });
      await expect(checkGpu({ gpu: 'cuda' }, sources(error, NVIDIA))).rejects.toBe(error);
    },
  );
});
