/** What a request asks for. Pure. Only these forms exist; every name and file name is checked here. */
import type { Ecosystem } from '../../base/package-policy.ts';
import type { Route } from '../protocol/artifact.ts';
import { pypiRoute } from '../protocol/pypi.ts';
import { accepted, type Checked, NOT_FOUND, refused } from '../refusal.ts';
import { parseTarget } from '../request-path.ts';

type ParseRoute = (segments: readonly string[]) => Route | undefined;

const ROOMS: Readonly<Record<string, ParseRoute>> = {
  pypi: pypiRoute,
};

/** Prefix of the paths of each ecosystem. */
export const ROOM_OF: Readonly<Partial<Record<Ecosystem, string>>> = { pip: 'pypi' };

export function parseRoute(method: string, target: string): Checked<Route> {
  if (method !== 'GET' && method !== 'HEAD') {
    const message = `Only packages can be fetched here, by GET; ${method.slice(0, 20)} is refused.`;
    return refused(405, 'method_refused', message);
  }
  const parsed = parseTarget(target);
  if (!parsed.ok) return parsed;
  const { host, segments } = parsed.value;
  if (host !== null) {
    return refused(403, 'bad_request', 'The package gateway is no proxy for other hosts.');
  }
  const [room = '', ...rest] = segments;
  const route = Object.hasOwn(ROOMS, room) ? ROOMS[room]?.(rest) : undefined;
  if (route === undefined) return NOT_FOUND;
  if (method === 'HEAD' && (route.kind !== 'artifact' || route.ecosystem !== 'pip')) {
    return refused(405, 'method_refused', 'HEAD is served for files of Python packages only.');
  }
  return accepted(route);
}
