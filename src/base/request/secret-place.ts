/** The place of a secret in a request. Pure. */

/** In the terms of OpenAPI's `apiKey` security scheme. */
export interface SecretPlace {
  readonly in: 'header' | 'query';
  /** A header field, in any case, or a query parameter, in exactly this case. */
  readonly name: string;
}

export const PLACE_NAME_CHARACTERS_MAX = 64;
const FIELD = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
/** Names that need no percent-encoding (RFC 3986 section 2.3). */
const PARAMETER = /^[A-Za-z0-9._~-]+$/;
/** Fields that frame or route a request, that proxies read or log, or that shape the answer. */
const RESERVED =
  /^(?:host|content-length|transfer-encoding|trailer|connection|upgrade|te|expect|max-forwards|via|forwarded|x-forwarded-.*|accept-encoding|range|if-range|request-range|http2-settings|sec-websocket-(?:extensions|key|version))$/i;

export function isPlace({ in: kind, name }: SecretPlace): boolean {
  if (name.length > PLACE_NAME_CHARACTERS_MAX) return false;
  if (kind === 'query') return PARAMETER.test(name);
  // A library's caller may be JavaScript.
  return kind === 'header' && FIELD.test(name) && !RESERVED.test(name);
}

/** In the syntax of `--secret`. */
export function placeText({ in: kind, name }: SecretPlace): string {
  return `${kind}=${name}`;
}

export function isSamePlace(one: SecretPlace, other: SecretPlace): boolean {
  if (one.in !== other.in) return false;
  if (one.in === 'query') return one.name === other.name;
  return one.name.toLowerCase() === other.name.toLowerCase();
}
