/** The Python index that this machine's own pip uses, where it answers. */
import { systemClock } from '../../src/base/clock.ts';
import { describeError } from '../../src/base/errors.ts';
import { PackageError } from '../../src/packages/errors.ts';
import type { IndexSet } from '../../src/packages/gateway.ts';
import { hostFiles } from '../../src/packages/host/host-files.ts';
import { readIndexes } from '../../src/packages/host/indexes.ts';
import { PYPI_ACCEPT } from '../../src/packages/protocol/pypi.ts';
import { Upstream } from '../../src/packages/upstream/fetch.ts';
import { isPublicAddress } from '../../src/runtime/packages.ts';

const LOOK_MS = 10_000;

/** The host's indexes; or why its Python index can't be used. */
export async function findHostIndexes(): Promise<IndexSet | string> {
  const upstream = new Upstream({
    clock: systemClock,
    isPublic: isPublicAddress,
    limits: { pageTimeoutMs: LOOK_MS, silenceTimeoutMs: LOOK_MS },
  });
  try {
    const indexes = await readIndexes(hostFiles(process.env), []);
    if (indexes.pip instanceof PackageError) throw indexes.pip;
    if (indexes.pip === undefined) return 'the host has no Python index';
    await upstream.page({
      url: `${indexes.pip.baseUrl}six/`,
      index: indexes.pip,
      accept: PYPI_ACCEPT,
      signal: new AbortController().signal,
    });
    return indexes;
  } catch (error) {
    return `the Python index of the host does not answer: ${describeError(error)}`;
  } finally {
    upstream.close();
  }
}
