/** Why a package request is not served. Clients show the phrase or the body: see `docs/packages.md`. */
import * as http from '../../base/http/refusal.ts';

export { accepted } from '../../base/http/refusal.ts';

/** The message is ASCII. 403 and 404 are final for every client; most retry after 429 and 502. */
export type Refusal = http.Refusal<RefusalCode>;
export type Checked<T> = http.Checked<T, RefusalCode>;

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

export const refused: typeof http.refused<RefusalCode> = http.refused;

export const NOT_FOUND = refused(404, 'not_found', 'There is no such package or file.');

const PHRASE_CHARACTERS_MAX = 200;

/** The message as an HTTP reason phrase, which pip, uv, apt and go show. */
export function phraseOf({ message }: Refusal): string {
  return message.replace(/[^\x20-\x7e]/g, '?').slice(0, PHRASE_CHARACTERS_MAX);
}
