/**
 * The processor of the built-in engine, as llama.cpp loads it, and why it is not a GPU. How many layers of a model it
 * computes is known only once the model is loaded, so running engines are asked, and none is started.
 */
import { existsSync } from 'node:fs';
import type { Config } from '../../base/config.ts';
import { resolveHome } from '../../base/home.ts';
import type { ProcessorInfo } from '../../inference/engine/backend.ts';
import type { EngineHealth } from '../../inference/engine/health.ts';
import type { GpuChoice } from '../../inference/engine/load.ts';
import { findProcessor } from '../../inference/engine/processor.ts';
import { runningEngines } from '../runtime/model-servers/engine-server.ts';
import type { Finding } from './check.ts';

/** The facts of the machine that the check reads; tests replace them. */
export interface GpuSources {
  findProcessor: typeof findProcessor;
  hasDevice(path: string): boolean;
  runningEngines(): Promise<readonly EngineHealth[]>;
}

const NAMES = { cuda: 'CUDA', vulkan: 'Vulkan', metal: 'Metal' } as const;

/** Device files of GPUs, with llama.cpp's backend for each, in its order. */
const DEVICES = [
  { path: '/dev/nvidia0', what: 'an NVIDIA device', backend: 'cuda' },
  { path: '/dev/dri/renderD128', what: 'a render device', backend: 'vulkan' },
] as const;

/** @throws EngineError if llama.cpp can't be loaded, or not for the configured processor */
export async function checkGpu(
  { gpu: choice, home }: Pick<Config, 'gpu' | 'home'>,
  sources: GpuSources = {
    findProcessor,
    hasDevice: existsSync,
    runningEngines: () => runningEngines(resolveHome(home).runDir),
  },
): Promise<Finding> {
  const found = await sources.findProcessor(choice);
  const engines = await sources.runningEngines();
  const finding = judge(found, choice, sources);
  const now = engines.map(describeEngine).join('; ');
  if (now !== '') return { ...finding, detail: `${finding.detail}. Running: ${now}` };
  const plan = found.gpu === 'cpu' ? '' : ', with as many layers of a model as its memory has room for, else the CPU';
  return { ...finding, detail: `${finding.detail}${plan}; no engine is running` };
}

function judge({ gpu, device }: ProcessorInfo, choice: GpuChoice, sources: GpuSources): Finding {
  if (gpu !== 'cpu') {
    return { verdict: 'ok', detail: `the engine uses ${named(gpu, device)}`, remedy: null };
  }
  const detail = 'the engine computes on the CPU';
  if (choice === 'cpu') {
    return { verdict: 'ok', detail: `${detail}, as configured by NEUROVISOR_GPU`, remedy: null };
  }
  const found = DEVICES.find(({ path }) => sources.hasDevice(path));
  if (found === undefined) {
    return {
      verdict: 'limited',
      detail: `no GPU device; ${detail}`,
      remedy: 'use a host with a GPU, or point NEUROVISOR_UPSTREAM at a server that has one',
    };
  }
  const { what, backend } = found;
  return {
    verdict: 'limited',
    detail: `there is ${what}, but ${detail}: llama.cpp loads no ${NAMES[backend]} backend`,
    remedy: `install the driver and the npm package @node-llama-cpp/linux-x64-${backend}`,
  };
}

/** For example: `smollm2 with CUDA on NVIDIA H100, 20 of 31 layers on it, 4 sequences of 4096 tokens`. */
function describeEngine({ model, setup }: EngineHealth): string {
  if (setup === null) return `${model} is being loaded`;
  const { gpu, device, gpuLayers, layers, slots, contextTokens } = setup;
  const where =
    gpu === 'cpu'
      ? `on the CPU, all ${layers} layers`
      : `with ${named(gpu, device)}, ${gpuLayers} of ${layers} layers on it`;
  return `${model} ${where}, ${slots} sequences of ${contextTokens} tokens`;
}

function named(gpu: keyof typeof NAMES, device: string | null): string {
  return device === null ? NAMES[gpu] : `${NAMES[gpu]} on ${device}`;
}
