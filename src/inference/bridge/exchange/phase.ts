/** How far an exchange has come with an upstream. */
import type { Admission } from '../admission.ts';
import type { Dispatched } from '../dispatched.ts';
import type { UpstreamTarget } from '../upstream/address.ts';

export type Phase =
  /** No budget is reserved. */
  | { readonly kind: 'reading' }
  | { readonly kind: 'admitted'; readonly admission: Admission }
  /** Waits for a slot of its first upstream. */
  | { readonly kind: 'queued'; readonly admission: Admission; readonly target: UpstreamTarget }
  /** An upstream got the request: `dispatched` is the last attempt, `target` the upstream of this attempt or the next. */
  | {
      readonly kind: 'sent';
      readonly admission: Admission;
      readonly target: UpstreamTarget;
      readonly dispatched: Dispatched;
    }
  /** The answer comes from the cache: nothing waits, and no budget is used. */
  | { readonly kind: 'cached'; readonly dispatched: Dispatched };

export function admissionOf(phase: Phase): Admission | undefined {
  return 'admission' in phase ? phase.admission : undefined;
}

export function targetOf(phase: Phase): UpstreamTarget | undefined {
  return 'target' in phase ? phase.target : undefined;
}

export function dispatchedOf(phase: Phase): Dispatched | undefined {
  return 'dispatched' in phase ? phase.dispatched : undefined;
}
