/**
 * Metrics of all requests of a bridge (R-OBS-4), by model, dialect and outcome. A name becomes a label only after an
 * upstream has answered for it, so a guest can't invent labels.
 */
import { Counter, Histogram, type Metric, OTHER } from '../../base/metrics.ts';
import type { TokenTimes } from './token-times.ts';
import type { UsageRecord } from './usage.ts';

const MODELS_MAX = 16;
/** The last bound is near `bodyBytesMax`. */
const BODY_BOUNDS = [1, 4, 16, 64, 256, 1024, 4096, 32_768].map((kib) => kib * 1024);
export const INTER_TOKEN_BOUNDS = [
  0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10,
] as const;

export type UnsentOutcome = 'refused' | 'cancelled' | 'upstream-lost';

const BY_MODEL = ['model', 'dialect'] as const;

export class BridgeMetrics {
  readonly #models = new Set<string>();
  readonly #requests = new Counter(
    'neurovisor_requests_total',
    'Finished inference requests: ok, cancelled, refused, upstream-error, upstream-lost.',
    ['model', 'dialect', 'outcome'],
    256,
  );
  readonly #errors = new Counter('neurovisor_errors_total', 'Error answers to guests.', ['error_type'], 64);
  readonly #generated = new Counter(
    'neurovisor_tokens_generated_total',
    'Tokens that models produced; estimated if the upstream does not report them.',
    BY_MODEL,
  );
  readonly #prompt = new Counter(
    'neurovisor_tokens_prompt_total',
    'Tokens of prompts; estimated if the upstream does not report them.',
    BY_MODEL,
  );
  readonly #duration = new Histogram(
    'neurovisor_inference_duration_seconds',
    'First byte of a request to the last of its answer, if sent to an upstream.',
    BY_MODEL,
  );
  readonly #queue = new Histogram(
    'neurovisor_inference_queue_seconds',
    'End of a request until it is sent to an upstream.',
    BY_MODEL,
  );
  readonly #firstToken = new Histogram(
    'neurovisor_time_to_first_token_seconds',
    'End of a request to its stream’s first event with text.',
    BY_MODEL,
  );
  readonly #interToken = new Histogram(
    'neurovisor_inter_token_seconds',
    'Time between events with text of one stream.',
    BY_MODEL,
    { bounds: INTER_TOKEN_BOUNDS },
  );
  readonly #bodies = new Histogram('neurovisor_request_size_bytes', 'Bodies of inference requests.', ['dialect'], {
    bounds: BODY_BOUNDS,
  });

  readonly #checks = new Histogram(
    'neurovisor_bridge_body_check_seconds',
    'Time to check a body, with the wait for a thread; `where`: loop or thread.',
    ['where'],
  );

  list(): readonly Metric[] {
    return [
      this.#requests,
      this.#errors,
      this.#generated,
      this.#prompt,
      this.#duration,
      this.#queue,
      this.#firstToken,
      this.#interToken,
      this.#bodies,
      this.#checks,
    ];
  }

  countBody(dialect: string, bytes: number): void {
    this.#bodies.observe({ dialect }, bytes);
  }

  countCheck(where: 'loop' | 'thread', tookMs: number): void {
    this.#checks.observe({ where }, tookMs / 1000);
  }

  countError(code: string): void {
    this.#errors.add({ error_type: code });
  }

  countUnsent(dialect: string, outcome: UnsentOutcome): void {
    this.#requests.add({ model: OTHER, dialect, outcome });
  }

  countSent(dialect: string, usage: UsageRecord, tokens: TokenTimes): void {
    const { outcome, timings, promptTokens, completionTokens } = usage;
    const by = { model: this.#label(usage), dialect };
    this.#requests.add({ ...by, outcome });
    this.#prompt.add(by, promptTokens);
    this.#generated.add(by, completionTokens);
    this.#duration.observe(by, timings.totalMs / 1000);
    this.#queue.observe(by, timings.queueMs / 1000);
    if (tokens.firstMs !== null) this.#firstToken.observe(by, tokens.firstMs / 1000);
    this.#interToken.merge(by, tokens.gaps, tokens.gapSumSeconds);
  }

  countCached(dialect: string, usage: UsageRecord): void {
    this.#requests.add({ model: this.#label(usage), dialect, outcome: usage.outcome });
  }

  #label({ model, outcome }: UsageRecord): string {
    const isNew = !this.#models.has(model);
    if (isNew && outcome === 'ok' && this.#models.size < MODELS_MAX) this.#models.add(model);
    return this.#models.has(model) ? model : OTHER;
  }
}
