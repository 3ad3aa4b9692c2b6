import { createHash } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { FakeClock } from '../../../base/clock.ts';
import { CACHE_LIMITS } from '../limits.ts';
import type { Artifact } from '../protocol/artifact.ts';
import type { FileAnswer, Upstream } from '../upstream/fetch.ts';
import { FileStore } from './file-store.ts';
import { PackageFiles } from './package-files.ts';

const CONTENT = Buffer.from('content');
const HEAD = { sizeBytes: CONTENT.length, lastModified: undefined, contentType: undefined };
const artifact = { url: 'http://i.example/x', digests: [] as Artifact['digests'] } as Artifact;
const index = { baseUrl: 'http://i.example/' };

it('a reader that arrives when an abandoned download is given up gets a new one', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'nv-files-'));
  onTestFinished(() => rm(dir, { recursive: true }));
  const clock = new FakeClock();
  let asked = 0;
  const file = async ({ signal }: { signal: AbortSignal }): Promise<FileAnswer> => {
    asked += 1;
    const isFirst = asked === 1;
    async function* body(): AsyncGenerator<Buffer> {
      if (isFirst) {
        await new Promise<void>((_resolve, reject) => {
          signal.addEventListener('abort', () => setTimeout(reject, 20, signal.reason));
        });
      }
      yield CONTENT;
    }
    return { ...HEAD, body: body() };
  };
  const upstream = { file } as unknown as Upstream;
  const files = new PackageFiles({ upstream, store: new FileStore(dir, 1_000_000), clock });
  const { signal } = new AbortController();
  const first = await files.open(artifact, index, signal);
  await first.close();
  clock.advance(CACHE_LIMITS.orphanMs);
  const second = await files.open(artifact, index, signal);
  expect(await second.complete()).toBe(CONTENT.length);
  await second.close();
  await files.close();
  expect(asked).toBe(2);
});

it('a server that claims another file’s digest does not delay readers of that file', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'nv-files-'));
  onTestFinished(() => rm(dir, { recursive: true }));
  const digest = { algorithm: 'sha256' as const, hex: createHash('sha256').update(CONTENT).digest('hex') };
  const hostile = 'http://hostile.example/x';
  const file = async ({ url, signal }: { url: string; signal: AbortSignal }): Promise<FileAnswer> => {
    async function* body(): AsyncGenerator<Buffer> {
      if (url === hostile) {
        await new Promise<void>((_resolve, reject) => {
          signal.addEventListener('abort', () => reject(signal.reason));
        });
      }
      yield CONTENT;
    }
    return { ...HEAD, body: body() };
  };
  const upstream = { file } as unknown as Upstream;
  const store = new FileStore(dir, 1_000_000);
  const files = new PackageFiles({ upstream, store, clock: new FakeClock() });
  const { signal } = new AbortController();
  const slow = await files.open({ ...artifact, url: hostile, digests: [digest] }, index, signal);
  const own = await files.open({ ...artifact, digests: [digest] }, index, signal);
  expect(await own.complete()).toBe(CONTENT.length);
  await own.close();
  await slow.close();
  await files.close();
});
