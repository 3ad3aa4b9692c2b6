/** The reason why a request of a guest is not served. Each port turns it into the form that its clients show. */
export interface Refusal<Code extends string = string> {
  readonly status: number;
  /** Stable and machine-readable, e.g. `model_not_found`. */
  readonly code: Code;
  /** One or two sentences for the reader of the guest's output: the fault and the remedy. */
  readonly message: string;
  readonly param?: string;
  /** Seconds to wait before a retry. Absent if a retry does not help. */
  readonly retryAfterSeconds?: number;
  /** If true, the answer tells clients not to retry automatically, which they would do for the status. */
  readonly isFinal?: boolean;
}

export type Checked<T, Code extends string = string> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly refusal: Refusal<Code> };

export const accepted = <T>(value: T): { readonly ok: true; readonly value: T } => ({ ok: true, value });

export function refused<Code extends string>(
  status: number,
  code: Code,
  message: string,
  more: { readonly param?: string; readonly retryAfterSeconds?: number } = {},
): { readonly ok: false; readonly refusal: Refusal<Code> } {
  return { ok: false, refusal: { status, code, message, ...more } };
}
