import type { CanaryArrival } from './arrivals.ts';
import type { Probe } from './probe.ts';

export interface Case {
  readonly what: string;
  readonly probe: Probe;
  readonly judged: Judged;
}

type Judged =
  /** Holds if no such arrival reaches the canary. */
  | { readonly by: 'canary'; readonly isArrival: (arrival: CanaryArrival) => boolean }
  /** The same for a DNS query; if the canary receives none, holds if no address comes back. */
  | { readonly by: 'question'; readonly isArrival: (arrival: CanaryArrival) => boolean }
  /** Holds if only the endpoint itself answers; no canary can run at the destination. */
  | { readonly by: 'answer' }
  /** The same, for a name that only the canary's own zone resolves. */
  | { readonly by: 'answer-of-zone' }
  /** May arrive, without added header fields. */
  | { readonly by: 'fields'; readonly trace: string; readonly sent: readonly string[] }
  /** Always holds; the row documents a known limit. */
  | { readonly by: 'limit'; readonly trace: string };
