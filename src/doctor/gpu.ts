/** The processor of the built-in engine, as llama.cpp loads it, and why it is not a GPU. */
import { existsSync } from 'node:fs';
import type { Config } from '../config.ts';
import { findProcessor } from '../engine/processor.ts';
import type { Finding } from './check.ts';

/** The machine, as far as the check reads it; tests replace it. */
export interface GpuSources {
  findProcessor: typeof findProcessor;
  hasDevice(path: string): boolean;
}

const NAMES = { cuda: 'CUDA', vulkan: 'Vulkan', metal: 'Metal' } as const;

/** Device files of GPUs, with the backend that llama.cpp has for them, in its order. */
const DEVICES = [
  { path: '/dev/nvidia0', what: 'an NVIDIA device', backend: 'cuda' },
  { path: '/dev/dri/renderD128', what: 'a render device', backend: 'vulkan' },
] as const;

/** @throws EngineError llama.cpp can't be loaded, or not for the processor that is configured */
export async function checkGpu(
  { gpu: choice }: Pick<Config, 'gpu'>,
  sources: GpuSources = { findProcessor, hasDevice: existsSync },
): Promise<Finding> {
  const { gpu, device } = await sources.findProcessor(choice);
  if (gpu !== 'cpu') {
    const on = device === null ? '' : ` on ${device}`;
    return { verdict: 'ok', detail: `the engine uses ${NAMES[gpu]}${on}`, remedy: null };
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
