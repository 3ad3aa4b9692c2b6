/** Images in requests, for all APIs that name them by URL. */
import type { ImagePart } from './model.ts';
import { base64, Fault, IMAGE_TYPES, text } from './read-values.ts';

/** The start alone: V8 gives up on one expression for megabytes. Parameters such as `charset` say nothing about an image. */
const DATA_URL_START = /^data:([a-z]+\/[a-z0-9.+-]+)(?:;[a-z]+=[^;,]*)*;base64,/i;
const START_CHARACTERS_MAX = 200;

/**
 * Reads `data:<type>;base64,…`.
 * @throws Fault `remote_media_refused` for a URL that would have to be fetched; `invalid_value`
 */
export function readImageUrl(value: unknown, path: string): ImagePart {
  const url = text(value, path);
  const start = DATA_URL_START.exec(url.slice(0, START_CHARACTERS_MAX));
  if (start === null) {
    const why = 'must be a URL data:<type>;base64,…: read the image in the sandbox';
    throw new Fault(path, why, 'remote_media_refused');
  }
  const mediaType = (start[1] ?? '').toLowerCase().replace(/^image\/jpg$/, 'image/jpeg');
  if (!IMAGE_TYPES.has(mediaType)) throw new Fault(path, `the type must be one of ${[...IMAGE_TYPES].join(', ')}`);
  return { type: 'image', mediaType, data: base64(url.slice(start[0].length), path) };
}
