/** The indexes that this machine's own clients use, if they answer. */

import { GUEST_CODENAME } from '../../src/artifacts/image/rootfs/recipe.ts';
import { systemClock } from '../../src/base/clock.ts';
import { describeError } from '../../src/base/errors.ts';
import { PackageError } from '../../src/egress/packages/errors.ts';
import type { IndexSet } from '../../src/egress/packages/gateway.ts';
import { hostFiles } from '../../src/egress/packages/host/host-files.ts';
import { readIndexes } from '../../src/egress/packages/host/indexes.ts';
import { PYPI_ACCEPT } from '../../src/egress/packages/protocol/pypi.ts';
import { Upstream } from '../../src/egress/packages/upstream/fetch.ts';

const LOOK_MS = 10_000;

/** Requests that show that the index answers. */
const PROBES = {
  pip: { path: 'six/', accept: PYPI_ACCEPT },
  debian: { path: `dists/${GUEST_CODENAME}/InRelease`, accept: '*/*' },
} as const;

/** The host's indexes; or the reason why the one of this kind can't be used. */
export async function findHostIndexes(kind: keyof typeof PROBES = 'pip'): Promise<IndexSet | string> {
  const upstream = new Upstream({ clock: systemClock, limits: { pageTimeoutMs: LOOK_MS, silenceTimeoutMs: LOOK_MS } });
  try {
    const indexes = await readIndexes(hostFiles(process.env), []);
    const index = indexes[kind];
    if (index instanceof PackageError) throw index;
    if (index === undefined) return `the host has no index ${kind}`;
    const { path, accept } = PROBES[kind];
    const { signal } = new AbortController();
    await upstream.page({ url: `${index.baseUrl}${path}`, index, accept, signal });
    return indexes;
  } catch (error) {
    return `the index ${kind} of the host does not answer: ${describeError(error)}`;
  } finally {
    upstream.close();
  }
}
