/** The reason why a request is not served. Clients show the phrase or the body: see `docs/packages.md`. */
export interface Refusal {
  /** 403 and 404 are final for every client; most retry after 429 and 502. */
  readonly status: number;
  /** Stable, machine-readable. */
  readonly code: RefusalCode;
  /** One or two sentences of ASCII: the fault and the remedy. */
  readonly message: string;
}

export type RefusalCode =
  | 'bad_request'
  | 'method_refused'
  | 'not_found'
  | 'packages_off'
  | 'not_allowed'
  | 'denied'
  | 'too_young'
  | 'not_locked'
  | 'too_many_names'
  | 'busy'
  | 'no_index'
  | 'address_refused'
  | 'disk_full'
  | 'upstream_refused'
  | 'upstream_failed'
  | 'upstream_timeout';

export type Checked<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly refusal: Refusal };

export const accepted = <T>(value: T): Checked<T> => ({ ok: true, value });

export function refused(
  status: number,
  code: RefusalCode,
  message: string,
): { readonly ok: false; readonly refusal: Refusal } {
  return { ok: false, refusal: { status, code, message } };
}

export const NOT_FOUND = refused(404, 'not_found', 'There is no such package or file.');

const PHRASE_CHARACTERS_MAX = 200;

/** The message as an HTTP reason phrase, which pip, uv, apt and go show. */
export function phraseOf({ message }: Refusal): string {
  return message.replace(/[^\x20-\x7e]/g, '?').slice(0, PHRASE_CHARACTERS_MAX);
}
