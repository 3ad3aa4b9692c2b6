/** Why a request is not served, before a dialect puts it into words that its clients understand. */
export interface Refusal {
  /** HTTP status. */
  readonly status: number;
  /** Stable, machine-readable, e.g. `model_not_found`. */
  readonly code: string;
  /** One or two sentences for the person who reads the guest's output: what is wrong and what to do. */
  readonly message: string;
  /** The field of the body that is wrong. */
  readonly param?: string;
  /** Seconds after which another try makes sense; absent: another try changes nothing. */
  readonly retryAfterSeconds?: number;
}

export type Checked<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly refusal: Refusal };

export const accepted = <T>(value: T): Checked<T> => ({ ok: true, value });

export function refused(
  status: number,
  code: string,
  message: string,
  more: { readonly param?: string; readonly retryAfterSeconds?: number } = {},
): { readonly ok: false; readonly refusal: Refusal } {
  return { ok: false, refusal: { status, code, message, ...more } };
}
