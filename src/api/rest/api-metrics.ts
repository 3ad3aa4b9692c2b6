/** Metrics of the REST server. Labels hold the server's route patterns, never requested paths. */
import { Counter, Histogram, type Metric } from '../../base/metrics.ts';

export interface Answered {
  readonly method: string;
  /** Pattern as written in `routes/`; undefined if no route matched. */
  readonly route: string | undefined;
  readonly status: number;
  readonly seconds: number;
}

export class ApiMetrics {
  readonly #requests = new Counter(
    'neurovisor_api_requests_total',
    'Answered REST requests.',
    ['method', 'route', 'status'],
    400,
  );
  readonly #duration = new Histogram(
    'neurovisor_api_request_duration_seconds',
    'Head of a request until its answer is sent.',
    ['method', 'route'],
  );

  readonly #operations = new Histogram(
    'neurovisor_operation_answer_seconds',
    'Request to an agent (run a program, …) until its first answer.',
  );

  list(): readonly Metric[] {
    return [this.#requests, this.#duration, this.#operations];
  }

  operationAnswered(seconds: number): void {
    this.#operations.observe({}, seconds);
  }

  answered({ method, route, status, seconds }: Answered): void {
    const by = route === undefined ? { method: 'any', route: 'none' } : { method, route };
    this.#requests.add({ ...by, status: `${status}` });
    this.#duration.observe(by, seconds);
  }
}
