import type { CanaryArrival } from './arrivals.ts';
import type { Probe } from './probe.ts';

export interface Case {
  readonly what: string;
  readonly probe: Probe;
  readonly judged: Judged;
}

type Judged =
  /** Nothing that this is true of arrives. */
  | { readonly by: 'canary'; readonly isArrival: (arrival: CanaryArrival) => boolean }
  /** The same of a question; where the canary does not hear questions, no address comes back. */
  | { readonly by: 'question'; readonly isArrival: (arrival: CanaryArrival) => boolean }
  /** Nobody answers but the wall itself: there is no canary where this goes. */
  | { readonly by: 'answer' }
  /** The same, for a name whose address only the canary's own zone can give. */
  | { readonly by: 'answer-of-zone' }
  /** It may arrive, with no header fields but what the guest sent. */
  | { readonly by: 'fields'; readonly trace: string; readonly sent: readonly string[] }
  /** Either way: the table tells what was seen. */
  | { readonly by: 'limit'; readonly trace: string };
