/** The reason why a request is not served. A dialect turns it into its own error form. */
export interface Refusal {
  readonly status: number;
  /** Stable and machine-readable, e.g. `model_not_found`. */
  readonly code: string;
  /** One or two sentences for the reader of the guest's output: the fault and the remedy. */
  readonly message: string;
  readonly param?: string;
  /** Seconds to wait before a retry. Absent if a retry does not help. */
  readonly retryAfterSeconds?: number;
  /** If true, the answer tells clients not to retry automatically, which they would do for the status. */
  readonly isFinal?: boolean;
}

export type Checked<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly refusal: Refusal };

export const accepted = <T>(value: T): Checked<T> => ({ ok: true, value });

export function refused(
  status: number,
  code: string,
  message: string,
  more: { readonly param?: string; readonly retryAfterSeconds?: number } = {},
): { readonly ok: false; readonly refusal: Refusal } {
  return { ok: false, refusal: { status, code, message, ...more } };
}
