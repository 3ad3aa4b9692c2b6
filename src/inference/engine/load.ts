/** Loads llama.cpp, a model and its context, with as many layers on the GPU as fit (io). */
import { access, constants, open } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import type {
  LlamaOptions as LibraryOptions,
  Llama,
  LlamaContext,
  LlamaModel,
  LlamaModelOptions,
} from 'node-llama-cpp';
import { describeError } from '../../base/errors.ts';
import type { ProcessorInfo } from './backend.ts';
import { EngineError } from './errors.ts';

export type Library = typeof import('node-llama-cpp');

export type GpuChoice = 'auto' | 'cpu' | 'cuda' | 'vulkan';

export interface LlamaOptions {
  readonly modelPath: string;
  readonly gpu: GpuChoice;
  /** Default if null: `defaultThreads`. */
  readonly threads: number | null;
  /** Limit for one prompt and its answer, in tokens. */
  readonly contextTokens: number;
  /** Concurrent generations. Default if null: 4 on a GPU, 2 on a CPU. */
  readonly slots: number | null;
}

/** Receives warnings of a successful load, e.g. that the GPU lacks memory. */
export type Notice = (message: string) => void;

export interface Loaded {
  readonly llama: Llama;
  readonly model: LlamaModel;
  readonly context: LlamaContext;
  readonly threads: number;
  readonly slots: number;
  readonly gpuLayers: number;
  /** All layers of the model: its blocks and the output layer, as llama.cpp counts them. */
  readonly layers: number;
}

const GPU_SLOTS = 4;
const CPU_SLOTS = 2;
/**
 * Tokens per llama.cpp batch on a CPU. The result buffer grows with batch × vocabulary (half a gigabyte at 512 ×
 * 262,144); smaller batches were not slower.
 */
const CPU_BATCH_TOKENS = 128;
/** Fractions of the layers that did not fit, tried in turn. */
const FEWER = [0.75, 0.5, 0.25, 0] as const;
/** node-llama-cpp's errors if llama.cpp says only that it failed; on a GPU, memory is the usual cause. */
const FAILED = /^Failed to (load model|create context)$/;

/**
 * Loads the model. On a GPU the first attempt takes as many layers as fit beside the context, by node-llama-cpp's
 * estimate. Memory may still be short, since other programs use it or the estimate is too low; then fewer layers are
 * tried, finally 0, so that the CPU computes.
 * @throws EngineError `gpu_out_of_memory` if even 0 layers fail, since the GPU's driver needs memory too;
 * `engine_missing`, `gpu_unavailable`, `model_invalid`, `out_of_memory`
 */
export async function loadModel(library: Library, options: LlamaOptions, notice: Notice): Promise<Loaded> {
  const llama = await openLlama(library, options.gpu);
  if (llama.gpu === false) return await loadWith(library, llama, options, {});
  const contextSize = options.contextTokens * (options.slots ?? GPU_SLOTS);
  let tried: NonNullable<LlamaModelOptions['gpuLayers']> = { fitContext: { contextSize } };
  let fewer: readonly number[] | undefined;
  for (;;) {
    try {
      const loaded = await loadWith(library, llama, options, { gpuLayers: tried });
      if (loaded.gpuLayers < loaded.layers) notice(partly(llama.gpu, loaded));
      return loaded;
    } catch (error) {
      if (!(error instanceof DoesNotFit)) throw error;
      fewer ??= fewerLayers(error.gpuLayers ?? (await layersOf(library, options.modelPath)));
      const [next, ...rest] = fewer;
      const what = typeof tried === 'number' ? `${tried} layers` : 'as many layers as should fit';
      if (next === undefined) throw gpuIsFull(llama.gpu, error);
      notice(`the model can't be loaded with ${what} on the GPU (${describeError(error.cause)}); trying ${next}`);
      tried = next;
      fewer = rest;
    }
  }
}

/** Numbers of layers to try after `tooMany` did not fit, in descending order down to 0. */
export function fewerLayers(tooMany: number): number[] {
  const numbers = FEWER.map((share) => Math.floor(tooMany * share));
  return [...new Set(numbers)];
}

function partly(gpu: string, { gpuLayers, layers }: Loaded): string {
  return `the memory of the GPU has room for ${gpuLayers} of the model's ${layers} layers (${gpu}); the CPU computes the others`;
}

function gpuIsFull(gpu: string, cause: DoesNotFit): EngineError {
  return new EngineError(
    'gpu_out_of_memory',
    `the model can't be loaded with the GPU, probably for lack of its memory (${gpu})`,
    { cause, remedy: 'end other programs that use the GPU, or set NEUROVISOR_GPU=cpu' },
  );
}

/** An attempt failed, probably for lack of memory. All that it allocated is freed. */
class DoesNotFit extends Error {
  readonly gpuLayers: number | null;

  constructor(gpuLayers: number | null, cause: unknown) {
    super('not enough memory', { cause });
    this.gpuLayers = gpuLayers;
  }
}

async function loadWith(
  library: Library,
  llama: Llama,
  options: LlamaOptions,
  more: Pick<LlamaModelOptions, 'gpuLayers'>,
): Promise<Loaded> {
  const isOnGpu = llama.gpu !== false;
  const tried = typeof more.gpuLayers === 'number' ? more.gpuLayers : null;
  const model = await attempt('load the model', library, isOnGpu ? tried : undefined, () =>
    llama.loadModel({
      modelPath: options.modelPath,
      useMmap: true,
      // Lets the estimate account for the context below.
      ...(isOnGpu ? { defaultContextSwaFullCache: true } : {}),
      ...more,
    }),
  );
  const { gpuLayers } = model;
  const computesOnGpu = isOnGpu && gpuLayers > 0;
  const threads = options.threads ?? defaultThreads(llama.cpuMathCores);
  const slots = options.slots ?? (computesOnGpu ? GPU_SLOTS : CPU_SLOTS);
  try {
    const context = await attempt('allocate the context', library, isOnGpu ? gpuLayers : undefined, () =>
      model.createContext({
        sequences: slots,
        contextSize: Math.min(options.contextTokens, model.trainContextSize),
        threads,
        // A sliding window would drop the beginning, so no prefix could be reused.
        swaFullCache: true,
        // Room for a part of a prompt, and one token of each other generation.
        ...(computesOnGpu ? {} : { batchSize: CPU_BATCH_TOKENS + slots }),
      }),
    );
    const layers = model.fileInsights.totalLayers;
    return { llama, model, context, threads, slots, gpuLayers, layers };
  } catch (error) {
    // Otherwise its layers would take the memory of the next attempt.
    await model.dispose();
    throw error;
  }
}

/** @param gpuLayers see `DoesNotFit`; undefined without a GPU, where fewer layers would not help */
async function attempt<T>(
  what: string,
  library: Library,
  gpuLayers: number | null | undefined,
  work: () => Promise<T>,
): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const isKnown = error instanceof library.InsufficientMemoryError;
    const mayBeMemory = isKnown || (error instanceof Error && FAILED.test(error.message));
    // If the library's estimate finds no number that fits, it has tried all of them.
    if (mayBeMemory && gpuLayers !== undefined) throw new DoesNotFit(isKnown ? (gpuLayers ?? 0) : gpuLayers, error);
    if (isKnown) {
      throw new EngineError('out_of_memory', `not enough memory to ${what}`, {
        cause: error,
        remedy: 'use a smaller model or a shorter context',
      });
    }
    throw new EngineError('model_invalid', `llama.cpp can't ${what}`, {
      cause: error,
      remedy: 'check the file against its checksum, or use another model',
    });
  }
}

async function layersOf(library: Library, path: string): Promise<number> {
  const { architectureMetadata } = await library.readGgufFileInfo(path, { sourceType: 'filesystem' });
  return (architectureMetadata.block_count ?? 0) + 1;
}

/**
 * Physical cores minus one. llama.cpp's threads wait for each other by spinning, so one that shares its core stalls
 * all: on 2 busy cores, 2 threads gave 1 to 3 tokens/s and 1 thread 8 to 28. The client's VM and the daemon need a
 * core of their own.
 */
export function defaultThreads(physicalCores: number): number {
  return Math.max(1, Math.min(physicalCores, availableParallelism()) - 1);
}

/** @throws EngineError `model_missing`, `model_invalid` */
export async function checkModelFile(path: string): Promise<void> {
  try {
    await access(path, constants.R_OK);
  } catch (error) {
    throw new EngineError('model_missing', `no readable model file at ${path}`, {
      cause: error,
      remedy: 'give the path of a GGUF file',
    });
  }
  const file = await open(path);
  try {
    const magic = Buffer.alloc(4);
    await file.read(magic, 0, 4, 0);
    if (magic.toString('latin1') === 'GGUF') return;
  } finally {
    await file.close();
  }
  throw new EngineError('model_invalid', `${path} is not a GGUF file`, {
    remedy: 'use a model in the GGUF format, or convert it first',
  });
}

/** Loads llama.cpp without a model. @throws EngineError `engine_missing`, `gpu_unavailable` */
export async function loadProcessor(choice: GpuChoice): Promise<ProcessorInfo> {
  const llama = await openLlama(await importLibrary(), choice);
  try {
    return await processorOf(llama);
  } finally {
    await llama.dispose();
  }
}

export async function processorOf(llama: Llama): Promise<ProcessorInfo> {
  if (llama.gpu === false) return { gpu: 'cpu', device: null };
  const [device = null] = await llama.getGpuDeviceNames();
  return { gpu: llama.gpu, device };
}

/** @throws EngineError `engine_missing` */
export async function importLibrary(): Promise<Library> {
  try {
    return await import('node-llama-cpp');
  } catch (error) {
    throw new EngineError('engine_missing', 'node-llama-cpp is not installed', {
      cause: error,
      remedy: 'run npm ci in the project, or point NEUROVISOR_UPSTREAM to another model server',
    });
  }
}

async function openLlama(library: Library, choice: GpuChoice): Promise<Llama> {
  const options: LibraryOptions = {
    gpu: choice === 'cpu' ? false : choice,
    build: 'never',
    skipDownload: true,
    progressLogs: false,
    logLevel: library.LlamaLogLevel.error,
    // 0 means no limit; otherwise contexts share a budget of threads and wait for each other.
    maxThreads: 0,
  };
  try {
    return await library.getLlama(options);
  } catch (error) {
    if (choice === 'cuda' || choice === 'vulkan') {
      throw new EngineError('gpu_unavailable', `the engine can't use ${choice} here`, {
        cause: error,
        remedy: `install the driver and the npm package @node-llama-cpp/linux-x64-${choice}, or use the CPU`,
      });
    }
    throw new EngineError('engine_missing', 'llama.cpp has no binary for this machine', {
      cause: error,
      remedy: 'install the @node-llama-cpp package of this platform, or use another model server',
    });
  }
}
