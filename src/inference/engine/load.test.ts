/** Which layers are tried on a GPU, with a fake of node-llama-cpp: no GPU is needed. */
import { describe, expect, it } from 'vitest';
import { fewerLayers, type Library, type LlamaOptions, loadModel } from './load.ts';

class InsufficientMemoryError extends Error {}

type Tried = number | 'fit' | 'cpu';

interface Machine {
  readonly gpu: 'cuda' | 'vulkan' | false;
  /** Layers that the library's estimate takes; null: not even 0 fit. */
  readonly estimate: number | null;
  /** Most layers for which the model, and the context beside it, can really be allocated; below 0: none. */
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
  it('a GPU with room: all layers, at once, without a notice', async () => {
    const { load, tried, notices, contexts } = fake({ gpu: 'cuda', ...ALL });
    expect(await load()).toMatchObject({ gpuLayers: LAYERS, layers: LAYERS, slots: 4 });
    expect(tried).toEqual(['fit']);
    expect(notices).toEqual([]);
    expect(contexts).toEqual([expect.not.objectContaining({ batchSize: expect.anything() })]);
  });

  it('a GPU with room for a part: that part, with a notice', async () => {
    const { load, notices } = fake({ gpu: 'vulkan', ...ALL, estimate: 20 });
    expect(await load()).toMatchObject({ gpuLayers: 20, layers: LAYERS });
    expect(notices).toEqual([expect.stringContaining("room for 20 of the model's 33 layers (vulkan)")]);
  });

  it('a context that does not fit: three quarters, then half, then a quarter; nothing is left of failed attempts', async () => {
    const { load, tried, notices, live } = fake({ gpu: 'cuda', ...ALL, contextRoom: 9 });
    expect(await load()).toMatchObject({ gpuLayers: 8 });
    expect(tried).toEqual(['fit', 24, 16, 8]);
    expect(notices).toHaveLength(4);
    expect(notices[0]).toMatch(/as many layers as should fit on the GPU \(context\); trying 24/);
    expect(live()).toBe(1);
  });

  it('a model that does not fit although the estimate says so: fewer of all its layers', async () => {
    const { load, tried } = fake({ gpu: 'cuda', ...ALL, modelRoom: 16 });
    expect(await load()).toMatchObject({ gpuLayers: 16 });
    expect(tried).toEqual(['fit', 24, 16]);
  });

  it('no room for a layer: at last none, and the CPU computes with its own settings', async () => {
    const { load, tried, contexts, notices } = fake({ gpu: 'cuda', ...ALL, contextRoom: 0 });
    expect(await load()).toMatchObject({ gpuLayers: 0, slots: 2 });
    expect(tried).toEqual(['fit', 24, 16, 8, 0]);
    expect(contexts.at(-1)).toMatchObject({ sequences: 2, batchSize: 130 });
    expect(notices.at(-1)).toContain("0 of the model's 33 layers");
  });

  it('an estimate that finds no number of layers: none is tried at once', async () => {
    const { load, tried } = fake({ gpu: 'cuda', ...ALL, estimate: null });
    expect(await load()).toMatchObject({ gpuLayers: 0 });
    expect(tried).toEqual(['fit', 0]);
  });

  it('a GPU without any memory: an error that tells of the GPU, with its remedy', async () => {
    const { load, live } = fake({ gpu: 'cuda', ...ALL, contextRoom: -1 });
    await expect(load()).rejects.toMatchObject({
      code: 'gpu_out_of_memory',
      remedy: expect.stringContaining('NEUROVISOR_GPU=cpu'),
    });
    expect(live()).toBe(0);
  });

  it('without a GPU: one attempt, whose failure is not about layers', async () => {
    const { load, tried } = fake({ gpu: false, ...ALL });
    expect(await load()).toMatchObject({ gpuLayers: 0, layers: LAYERS, slots: 2 });
    expect(tried).toEqual(['cpu']);
  });

  it('a failure that is not about memory ends the attempts', async () => {
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
