/** Asks an engine for its state (`GET /health`) over its socket. A guest may have taken over the engine (io). */
import { request } from 'node:http';
import { ignore, tryOr } from '../../base/ignore.ts';
import { plain } from '../../base/text/plain.ts';
import type { BackendInfo } from './backend.ts';

export type EngineSetup = Pick<
  BackendInfo,
  'gpu' | 'device' | 'gpuLayers' | 'layers' | 'threads' | 'contextTokens' | 'slots'
>;

export interface EngineHealth {
  /** Display name of its model. */
  readonly model: string;
  readonly running: number;
  readonly waiting: number;
  /** `null` while it loads its model. */
  readonly setup: EngineSetup | null;
}

/** An engine that does not answer in time may be computing, or be gone. */
const TIMEOUT_MS = 1_000;
const BYTES_MAX = 4_096;
const NAME_CHARACTERS_MAX = 80;
const GPUS = ['cpu', 'cuda', 'vulkan', 'metal'] as const;

/** `null` without an answer, or with an invalid one. Never rejects. */
export function askHealth(socketPath: string): Promise<EngineHealth | null> {
  return new Promise((resolve) => {
    const sent = request({ socketPath, path: '/health' }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (part: string) => {
        text += part;
        if (text.length > BYTES_MAX) sent.destroy();
      });
      response.on('error', (error) => ignore(error, 'what has arrived is no health'));
      response.on('end', () => resolve(readHealth(text)));
    });
    // Limits the whole answer, not the gap between bytes.
    const timer = setTimeout(() => sent.destroy(), TIMEOUT_MS);
    sent.on('close', () => {
      clearTimeout(timer);
      resolve(null);
    });
    sent.on('error', () => resolve(null));
    sent.end();
  });
}

export function readHealth(text: string): EngineHealth | null {
  const health = parse(text);
  const { status, model } = health;
  if (typeof model !== 'string') return null;
  const name = plain(model).slice(0, NAME_CHARACTERS_MAX);
  if (status === 'loading') return { model: name, running: 0, waiting: 0, setup: null };
  const gpu = GPUS.find((one) => one === health['gpu']);
  const { device } = health;
  const count = (key: string): number => {
    const value = health[key];
    return Number.isSafeInteger(value) && (value as number) >= 0 ? (value as number) : Number.NaN;
  };
  const setup = {
    gpuLayers: count('gpuLayers'),
    layers: count('layers'),
    threads: count('threads'),
    contextTokens: count('contextTokens'),
    slots: count('slots'),
  };
  const requests = { running: count('running'), waiting: count('waiting') };
  const isWhole = Object.values({ ...setup, ...requests }).every((value) => !Number.isNaN(value));
  if (status !== 'ok' || gpu === undefined || !isWhole) return null;
  const shown = typeof device === 'string' ? plain(device).slice(0, NAME_CHARACTERS_MAX) : null;
  return { model: name, ...requests, setup: { gpu, device: shown, ...setup } };
}

function parse(text: string): Readonly<Record<string, unknown>> {
  return tryOr({}, 'not an engine', () => {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? { ...value } : {};
  });
}
