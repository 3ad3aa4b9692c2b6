/** Parses what a request asks for. Only these forms exist; every name and file name is checked here. Pure. */

import { aptRoute } from '../protocol/apt.ts';
import type { Route } from '../protocol/artifact.ts';
import { cargoRoute } from '../protocol/cargo.ts';
import { goRoute } from '../protocol/go.ts';
import { npmRoute } from '../protocol/npm.ts';
import { pypiRoute } from '../protocol/pypi.ts';
import { accepted, type Checked, NOT_FOUND, refused } from '../refusal.ts';
import { parseTarget } from '../request-path.ts';

type ParseRoute = (segments: readonly string[]) => Route | undefined;

const ROOMS: Readonly<Record<string, ParseRoute>> = {
  pypi: pypiRoute,
  npm: npmRoute,
  go: goRoute,
  cargo: cargoRoute,
  apt: (segments) => aptRoute(segments, null),
};

export function parseRoute(method: string, target: string): Checked<Route> {
  const parsed = parseTarget(target);
  if (!parsed.ok) return parsed;
  const { host, segments } = parsed.value;
  const route = host === null ? ownRoute(segments) : aptRoute(segments, host);
  if (route === undefined) {
    if (host === null) return NOT_FOUND;
    const message =
      'The package gateway serves apt archives of Debian and Ubuntu by their public names alone: put archive.ubuntu.com or deb.debian.org into the sources of apt.';
    return refused(403, 'bad_request', message);
  }
  if (method === 'HEAD' && (route.kind !== 'artifact' || route.ecosystem !== 'pip')) {
    return refused(405, 'method_refused', 'HEAD is served for files of Python packages only.');
  }
  return accepted(route);
}

function ownRoute([room = '', ...rest]: readonly string[]): Route | undefined {
  return Object.hasOwn(ROOMS, room) ? ROOMS[room]?.(rest) : undefined;
}
