/** Tests which numbers of GPU layers are tried, with a fake of node-llama-cpp, so no GPU is needed. */
import { describe, expect, it } from 'vitest';
import { fewerLayers, type Library, type LlamaOptions, loadModel } from './load.ts';

class InsufficientMemoryError extends Error {}

type Tried = number | 'fit' | 'cpu';

interface Machine {
  readonly gpu: 'cuda' | 'vulkan' | false;
  /** Layers that the library estimates to fit; `null` if not even 0 fit. */
  readonly estimate: number | null;
  /** Most layers for which the model, and the context beside it, can be allocated; negative if not even 0. */
  readonly modelRoom: number;
  readonly contextRoom: number;
  readonly damage?: string;
}

const LAYERS = 33;
const OPTIONS: LlamaOptions = { modelPath: 'm.gguf', gpu: 'auto', threads: 1, contextTokens: 1_000, slots: null };

function fake({ gpu, estimate, modelRoom, contextRoom, damage }: Machine) {
  const tried: Tried[] = [];
  const contexts: { sequences: number; batchSize?: number }[] = [];
  let live = 0;
  const model = (gpuLayers: number) => ({
    gpuLayers,
    trainContextSize: 8_192,
    fileInsights: { totalLayers: LAYERS },
    async createContext(options: { sequences: number; batchSize?: number }) {
      contexts.push(options);
      if (gpu !== false && gpuLayers > contextRoom) throw new InsufficientMemoryError('context');
      return { contextSize: 1_000 };
    },
    async dispose() {
      live--;
    },
  });
  const llama = {
    gpu,
    cpuMathCores: 2,
    async loadModel({ gpuLayers }: { gpuLayers?: number | object }) {
      tried.push(gpuLayers === undefined ? 'cpu' : typeof gpuLayers === 'number' ? gpuLayers : 'fit');
      if (damage !== undefined) throw new Error(damage);
      if (typeof gpuLayers === 'object' && estimate === null) {
        throw new InsufficientMemoryError('not enough VRAM');
      }
      const layers = typeof gpuLayers === 'number' ? gpuLayers : gpu === false ? 0 : (estimate ?? 0);
      if (gpu !== false && layers > modelRoom) throw new Error('Failed to load model');
      live++;
      return model(layers);
    },
  };
  const library = {
    InsufficientMemoryError,
    LlamaLogLevel: { error: 'error' },
    getLlama: async () => llama,
    readGgufFileInfo: async () => ({ architectureMetadata: { block_count: LAYERS - 1 } }),
  } as unknown as Library;
  const notices: string[] = [];
  const load = () => loadModel(library, OPTIONS, (message) => notices.push(message));
  return { load, tried, contexts, notices, live: () => live };
}

const ALL = { estimate: LAYERS, modelRoom: LAYERS, contextRoom: LAYERS };

describe('loadModel', () => {
  it('loads all layers at once, without a notice, if the GPU has room', async () => {
    const { load, tried, notices, contexts } = fake({ gpu: 'cuda', ...ALL });
    expect(await load()).toMatchObject({ gpuLayers: LAYERS, layers: LAYERS, slots: 4 });
    expect(tried).toEqual(['fit']);
    expect(notices).toEqual([]);
    expect(contexts).toEqual([expect.not.objectContaining({ batchSize: expect.anything() })]);
  });

  it('loads a part of the layers, with a notice, if the GPU has room for it', async () => {
    const { load, notices } = fake({ gpu: 'vulkan', ...ALL, estimate: 20 });
    expect(await load()).toMatchObject({ gpuLayers: 20, layers: LAYERS });
    expect(notices).toEqual([expect.stringContaining("room for 20 of the model's 33 layers (vulkan)")]);
  });

  it('tries three quarters, half, then a quarter if the context does not fit, and frees failed attempts', async () => {
    const { load, tried, notices, live } = fake({ gpu: 'cuda', ...ALL, contextRoom: 9 });
    expect(await load()).toMatchObject({ gpuLayers: 8 });
    expect(tried).toEqual(['fit', 24, 16, 8]);
    expect(notices).toHaveLength(4);
    expect(notices[0]).toMatch(/as many layers as should fit on the GPU \(context\); trying 24/);
    expect(live()).toBe(1);
  });

  it('tries fewer of all layers if the model does not fit although the estimate says so', async () => {
    const { load, tried } = fake({ gpu: 'cuda', ...ALL, modelRoom: 16 });
    expect(await load()).toMatchObject({ gpuLayers: 16 });
    expect(tried).toEqual(['fit', 24, 16]);
  });

  it('ends with 0 layers, with CPU settings, if the GPU has room for none', async () => {
    const { load, tried, contexts, notices } = fake({ gpu: 'cuda', ...ALL, contextRoom: 0 });
    expect(await load()).toMatchObject({ gpuLayers: 0, slots: 2 });
    expect(tried).toEqual(['fit', 24, 16, 8, 0]);
    expect(contexts.at(-1)).toMatchObject({ sequences: 2, batchSize: 130 });
    expect(notices.at(-1)).toContain("0 of the model's 33 layers");
  });

  it('tries 0 layers at once if the estimate finds no number that fits', async () => {
    const { load, tried } = fake({ gpu: 'cuda', ...ALL, estimate: null });
    expect(await load()).toMatchObject({ gpuLayers: 0 });
    expect(tried).toEqual(['fit', 0]);
  });

  it('reports the GPU, with a remedy, if it has no memory at all', async () => {
    const { load, live } = fake({ gpu: 'cuda', ...ALL, contextRoom: -1 });
    await expect(load()).rejects.toMatchObject({
      code: 'gpu_out_of_memory',
      remedy: expect.stringContaining('NEUROVISOR_GPU=cpu'),
    });
    expect(live()).toBe(0);
  });

  it('makes one attempt without a GPU, and does not blame layers for its failure', async () => {
    const { load, tried } = fake({ gpu: false, ...ALL });
    expect(await load()).toMatchObject({ gpuLayers: 0, layers: LAYERS, slots: 2 });
    expect(tried).toEqual(['cpu']);
  });

  it('stops at a failure that is not about memory', async () => {
    const { load, tried } = fake({ gpu: 'cuda', ...ALL, damage: 'unsupported GGUF version' });
    await expect(load()).rejects.toMatchObject({ code: 'model_invalid' });
    expect(tried).toEqual(['fit']);
  });
});

describe('fewerLayers', () => {
  it.each([
    [33, [24, 16, 8, 0]],
    [2, [1, 0]],
    [1, [0]],
    [0, [0]],
  ])('of %i: %j', (tooMany, expected) => {
    expect(fewerLayers(tooMany)).toEqual(expected);
  });
});
