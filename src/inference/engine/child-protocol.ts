/** Messages between `process.ts` and its child `main.ts`: a config in argv, JSON lines on stdout. */
import { tryOr } from '../../base/ignore.ts';
import { plain } from '../../base/text/plain.ts';
import type { BackendInfo } from './backend.ts';
import type { EngineErrorCode } from './errors.ts';
import type { GpuChoice } from './load.ts';

export interface ChildConfig {
  readonly modelPath: string;
  readonly modelId: string;
  /** Path to listen at, or descriptor of a socket that listens already. */
  readonly socket: string | number;
  /** For development: also listen on this port of 127.0.0.1; 0 selects a free port. */
  readonly port: number | null;
  readonly gpu: GpuChoice;
  readonly threads: number | null;
  readonly contextTokens: number;
  readonly slots: number | null;
}

export interface ReadyInfo extends BackendInfo {
  /** Milliseconds from the start of the process to the first possible answer. */
  readonly loadMs: number;
}

export type ChildEvent =
  | { readonly type: 'listening'; readonly port: number | null }
  /** For NeuroVisor's log: a warning although the engine works. */
  | { readonly type: 'notice'; readonly message: string }
  | { readonly type: 'ready'; readonly info: ReadyInfo }
  | {
      readonly type: 'failed';
      readonly code: EngineErrorCode;
      readonly message: string;
      readonly remedy: string | null;
    };

const NOTICE_CHARACTERS_MAX = 400;

/**
 * Parses an event of the child; undefined for other lines, since llama.cpp prints its own. A child that a guest has
 * taken over may print anything, so a line never throws and a notice is short.
 */
export function readEvent(line: string): ChildEvent | undefined {
  if (!line.startsWith('{"type":"')) return undefined;
  const event = tryOr(undefined, 'logged as a line of llama.cpp', () => JSON.parse(line) as ChildEvent);
  switch (event?.type) {
    case 'listening':
      return event;
    case 'ready':
      return typeof event.info === 'object' && event.info !== null ? event : undefined;
    case 'failed':
      return typeof event.message === 'string' ? event : undefined;
    case 'notice': {
      if (typeof event.message !== 'string') return undefined;
      return { ...event, message: plain(event.message).slice(0, NOTICE_CHARACTERS_MAX) };
    }
    default:
      return undefined;
  }
}
