/** Messages between `process.ts` and its child `main.ts`: a config in argv, JSON lines on stdout. */
import type { BackendInfo } from './backend.ts';
import type { EngineErrorCode } from './errors.ts';
import type { GpuChoice } from './llama.ts';

/** The child's only argument, as JSON. */
export interface ChildConfig {
  readonly modelPath: string;
  readonly modelId: string;
  /** Where to listen: a path, or the descriptor of a socket that listens already. */
  readonly socket: string | number;
  /** For development: also listen on this port of 127.0.0.1; 0: any free port. */
  readonly port: number | null;
  readonly gpu: GpuChoice;
  readonly threads: number | null;
  readonly contextTokens: number;
  readonly slots: number | null;
}

export interface ReadyInfo extends BackendInfo {
  /** From the start of the process to the first possible answer, milliseconds. */
  readonly loadMs: number;
}

export type ChildEvent =
  /** The socket is open; requests that need the model wait. */
  | { readonly type: 'listening'; readonly port: number | null }
  | { readonly type: 'ready'; readonly info: ReadyInfo }
  /** The last event; the process exits. */
  | {
      readonly type: 'failed';
      readonly code: EngineErrorCode;
      readonly message: string;
      readonly remedy: string | null;
    };
