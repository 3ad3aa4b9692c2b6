import { describe, expect, it } from 'vitest';
import type { ProcessorInfo } from '../../inference/engine/backend.ts';
import { EngineError } from '../../inference/engine/errors.ts';
import type { EngineHealth } from '../../inference/engine/health.ts';
import { checkGpu } from './gpu.ts';

const sources = (loaded: ProcessorInfo | EngineError, ...devices: string[]) => ({
  findProcessor: async () => {
    if (loaded instanceof Error) throw loaded;
    return loaded;
  },
  hasDevice: (path: string) => devices.includes(path),
  runningEngines: async () => [],
});
const CPU: ProcessorInfo = { gpu: 'cpu', device: null };
const NVIDIA = '/dev/nvidia0';
const RENDER = '/dev/dri/renderD128';

describe('checkGpu', () => {
  it.each<[ProcessorInfo, string]>([
    [{ gpu: 'cuda', device: 'NVIDIA H100' }, 'the engine uses CUDA on NVIDIA H100'],
    [{ gpu: 'vulkan', device: null }, 'the engine uses Vulkan'],
  ])('reports the backend that was loaded: %j', async (loaded, detail) => {
    expect(await checkGpu({ gpu: 'auto', home: '' }, sources(loaded))).toEqual({
      verdict: 'ok',
      detail: `${detail}, with as many layers of a model as its memory has room for, else the CPU; no engine is running`,
      remedy: null,
    });
  });

  it.each([
    [[NVIDIA, RENDER], 'an NVIDIA device', 'no CUDA backend', 'linux-x64-cuda'],
    [[RENDER], 'a render device', 'no Vulkan backend', 'linux-x64-vulkan'],
  ])('devices %j without a backend: reported, with the package to install', async (devices, ...texts) => {
    const [device, backend, remedy] = texts;
    const found = await checkGpu({ gpu: 'auto', home: '' }, sources(CPU, ...devices));
    expect(found).toMatchObject({
      verdict: 'limited',
      detail: expect.stringMatching(`${device}.*CPU.*${backend}`),
      remedy: expect.stringContaining(remedy),
    });
  });

  it('no device: the CPU, with the remedies for a GPU', async () => {
    expect(await checkGpu({ gpu: 'auto', home: '' }, sources(CPU))).toMatchObject({
      verdict: 'limited',
      detail: 'no GPU device; the engine computes on the CPU; no engine is running',
      remedy: expect.stringContaining('host with a GPU'),
    });
  });

  it('NEUROVISOR_GPU=cpu: fine, even with a device', async () => {
    expect(await checkGpu({ gpu: 'cpu', home: '' }, sources(CPU, NVIDIA))).toMatchObject({
      verdict: 'ok',
      detail: expect.stringContaining('NEUROVISOR_GPU'),
    });
  });

  it.each(['engine_missing', 'gpu_unavailable', 'engine_crashed'] as const)(
    'an engine that fails to load (%s): reports the error with its remedy',
    async (code) => {
      const error = new EngineError(code, 'no', { remedy: 'do this' });
      await expect(checkGpu({ gpu: 'cuda', home: '' }, sources(error, NVIDIA))).rejects.toBe(error);
    },
  );

  const setup = {
    gpu: 'cpu',
    device: null,
    gpuLayers: 0,
    layers: 31,
    threads: 1,
    contextTokens: 4_096,
    slots: 2,
  } as const;
  it.each<[string, EngineHealth['setup'], string]>([
    ['on the CPU', setup, 'm on the CPU, all 31 layers, 2 sequences of 4096 tokens'],
    [
      'partly on a GPU',
      { ...setup, gpu: 'cuda', device: 'NVIDIA H100', gpuLayers: 20, slots: 4 },
      'm with CUDA on NVIDIA H100, 20 of 31 layers on it, 4 sequences of 4096 tokens',
    ],
    ['that still loads', null, 'm is being loaded'],
  ])('an engine %s: reports what it has loaded', async (_name, setup, text) => {
    const runningEngines = async () => [{ model: 'm', running: 0, waiting: 0, setup }];
    const { detail } = await checkGpu({ gpu: 'auto', home: '' }, { ...sources(CPU), runningEngines });
    expect(detail).toBe(`no GPU device; the engine computes on the CPU. Running: ${text}`);
  });
});
