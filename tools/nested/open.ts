/** A nested host with its disks and a directory of its own, for tests and benchmarks. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { resolveHome } from '../../src/base/home.ts';
import { freePort } from '../../test/support/free-port.ts';
import { makeDisks, type NestedParts } from './disks.ts';
import { NestedHost } from './host.ts';

/** Disposal ends the host and removes the directory. */
export interface OpenNestedHost extends AsyncDisposable {
  readonly host: NestedHost;
  /** Directory on this machine: console of the host, sockets. */
  readonly dir: string;
}

/** Directory in a home's cache. */
const nestedCache = (home: string): string => join(resolveHome(home).cacheDir, 'test-nested');

/** Directory with a record of the last run of each test file. */
export const nestedResults = (home: string): string => join(nestedCache(home), 'results');

/** Makes missing disks, and boots. @throws NestedHostError */
export async function openNestedHost(parts: NestedParts): Promise<OpenNestedHost> {
  const stack = new AsyncDisposableStack();
  try {
    const dir = await mkdtemp(join(tmpdir(), 'nv-nested-'));
    stack.defer(() => rm(dir, { recursive: true }));
    const say = (step: string): void => void process.stderr.write(`${step}\n`);
    const files = await makeDisks(nestedCache(parts.home), parts, say);
    const host = await NestedHost.boot(files, dir, await freePort());
    stack.defer(() => host.close());
    return { host, dir, [Symbol.asyncDispose]: () => stack.disposeAsync() };
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}
