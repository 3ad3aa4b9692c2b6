import { CodedError } from '../../base/errors.ts';

export type EngineErrorCode =
  /** node-llama-cpp or its binary for this machine is not installed. */
  | 'engine_missing'
  /** The requested processor (CUDA, Vulkan) has no driver, device or binary here. */
  | 'gpu_unavailable'
  /** The model file does not exist or can't be read. */
  | 'model_missing'
  /** The file is not a GGUF model, is damaged, or has a format that llama.cpp does not know. */
  | 'model_invalid'
  /** The model and its context need more memory than available. */
  | 'out_of_memory'
  /** The GPU has no memory, not even for a model all of whose layers are on the CPU. */
  | 'gpu_out_of_memory'
  /** The socket could not be opened. */
  | 'listen_failed'
  /** The process ended unexpectedly. */
  | 'engine_crashed'
  /** The caller stopped it. */
  | 'engine_stopped'
  /** A malformed or unsupported request. */
  | 'bad_request'
  /** The body is larger than the limit. */
  | 'body_too_large'
  /** No such path. */
  | 'not_found'
  /** The path does not support the method. */
  | 'method_not_allowed'
  /** The request names a model other than the loaded one. */
  | 'model_not_found'
  /** The prompt does not fit in the context. */
  | 'context_length_exceeded'
  /** All slots are busy and the queue is full. */
  | 'overloaded'
  /** A bug, or a failure inside llama.cpp; the process keeps running. */
  | 'internal';

/** A failure in the engine: at start (for people) or in a request (for clients). */
export class EngineError extends CodedError<EngineErrorCode> {
  /** The request field at fault, e.g. `messages[0].content`. */
  readonly param: string | null;

  constructor(
    code: EngineErrorCode,
    message: string,
    options: { cause?: unknown; remedy?: string; param?: string } = {},
  ) {
    super(code, message, options);
    this.param = options.param ?? null;
  }
}

/** HTTP status by code; other codes do not reach clients and count as 500. */
export const HTTP_STATUS: Partial<Record<EngineErrorCode, number>> = {
  bad_request: 400,
  context_length_exceeded: 400,
  model_not_found: 404,
  not_found: 404,
  method_not_allowed: 405,
  body_too_large: 413,
  overloaded: 503,
  engine_stopped: 503,
  engine_missing: 503,
  gpu_unavailable: 503,
  model_missing: 503,
  model_invalid: 503,
  out_of_memory: 503,
  gpu_out_of_memory: 503,
};

export function toEngineError(error: unknown): EngineError {
  return error instanceof EngineError
    ? error
    : new EngineError('internal', 'the engine failed to answer', { cause: error });
}
