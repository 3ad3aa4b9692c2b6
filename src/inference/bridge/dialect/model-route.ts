/**
 * Matches request targets. They are compared, never normalized or forwarded, so no spelling can reach another upstream
 * path. Pure.
 */
import { accepted, type Checked, refused } from '../../../base/http/refusal.ts';
import type { Route } from './dialect.ts';

const MODEL_ID_CHARACTERS_MAX = 256;
const PATH_CHARACTERS_SHOWN_MAX = 100;

/**
 * The path below `/v1`, which may be missing or occur twice: a base URL without it, or with it where the client adds
 * it, is the most common mistake in client configuration.
 */
export function targetPath(url: string): string {
  return (url.split('?', 1)[0] ?? '').replace(/^\/v1(?:\/v1(?=\/messages))?(?=\/)/, '').replace(/(?<=.)\/$/, '');
}

/**
 * Routes that all APIs share: the list of models, and one model. @param known routes to name in the error for an
 * unknown path
 */
export function modelRoute(method: string, url: string, known: string): Checked<Route> {
  if (!url.startsWith('/') || url.startsWith('//')) {
    return refused(400, 'bad_target', 'The request target is not a path.');
  }
  const path = targetPath(url);
  const id = path === '/models' ? '' : modelId(path);
  if (id === undefined) {
    const shown = JSON.stringify(url.slice(0, PATH_CHARACTERS_SHOWN_MAX));
    return refused(404, 'unknown_url', `Unknown path ${shown}. Use one of ${known}.`);
  }
  if (method !== 'GET') return wrongMethod(method, 'GET');
  return accepted(id === '' ? { kind: 'models' } : { kind: 'model', id });
}

/** Model names may contain slashes, plain or escaped. They are looked up, never forwarded. */
function modelId(path: string): string | undefined {
  const match = /^\/models\/(.+)$/.exec(path);
  if (match?.[1] === undefined) return undefined;
  try {
    const id = decodeURIComponent(match[1]);
    return id.length <= MODEL_ID_CHARACTERS_MAX ? id : undefined;
  } catch (error) {
    if (error instanceof URIError) return undefined;
    throw error;
  }
}

export function wrongMethod(method: string, allowed: string): Checked<never> {
  const message = `Method ${method.slice(0, 20)} is not allowed; use ${allowed}.`;
  return refused(405, 'method_not_allowed', message);
}
