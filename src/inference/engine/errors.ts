import { CodedError } from '../../base/errors.ts';

export type EngineErrorCode =
  | 'engine_missing'
  /** The requested processor (CUDA, Vulkan) has no driver, device or binary here. */
  | 'gpu_unavailable'
  | 'model_missing'
  /** The file is not a GGUF model, is damaged, or has a format that llama.cpp does not know. */
  | 'model_invalid'
  | 'out_of_memory'
  /** The GPU has too little memory even with all layers on the CPU. */
  | 'gpu_out_of_memory'
  | 'listen_failed'
  | 'engine_crashed'
  | 'engine_stopped'
  | 'bad_request'
  | 'body_too_large'
  | 'not_found'
  | 'method_not_allowed'
  | 'model_not_found'
  | 'context_length_exceeded'
  | 'overloaded'
  /** A bug, or a failure inside llama.cpp; the process keeps running. */
  | 'internal';

/** A failure of the engine, at start (shown to people) or in a request (shown to clients). */
export class EngineError extends CodedError<EngineErrorCode> {
  /** The wrong request field, e.g. `messages[0].content`. */
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
