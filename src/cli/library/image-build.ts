/** Builds of Dockerfiles: a daemon elsewhere gets the files, any other reads them where they are. */
import { hostname } from 'node:os';
import { BuildContext } from '../../artifacts/dockerfile/context.ts';
import { systemClock } from '../../base/clock.ts';
import type { BuildWork } from '../../sandbox/contract/contents.ts';
import type { BuiltImage, ImageBuild } from '../../sandbox/contract/schema/contents.ts';
import type { OpenedContents } from './contents.ts';

/** Where the files are on this machine. */
export interface BuildFiles {
  /** Absolute path of the context. */
  readonly dir: string;
  /** Absolute path; `null` if the Dockerfile is no file, and so has no ignore rules of its own. */
  readonly dockerfile: string | null;
}

const STEP = 'send-files';

/** @throws DockerfileError and those of `HomeImages` */
export async function buildImage(
  { images, isElsewhere }: Pick<OpenedContents, 'images' | 'isElsewhere'>,
  build: Omit<ImageBuild, 'context'>,
  { dir, dockerfile }: BuildFiles,
  work: BuildWork,
): Promise<BuiltImage> {
  if (!isElsewhere) {
    const own = dockerfile === null ? {} : { dockerfile };
    return await images.build({ ...build, context: { kind: 'directory', dir, ...own } }, null, work);
  }
  const opened = await BuildContext.open(dir, dockerfile);
  const { bytes, archive } = await opened.pack(work.signal);
  const request = { ...build, context: { kind: 'sent', from: `${hostname()}:${opened.dir}` } } as const;
  return await images.build(request, reported(archive, bytes, work), work);
}

async function* reported(
  archive: AsyncIterable<Uint8Array>,
  total: number,
  { progress }: BuildWork,
): AsyncGenerator<Uint8Array> {
  const startedAtMs = systemClock.now();
  progress({ kind: 'start', step: STEP, title: 'Send the files of the build' });
  let sent = 0;
  try {
    for await (const chunk of archive) {
      yield chunk;
      sent += chunk.length;
      progress({ kind: 'update', step: STEP, fraction: Math.min(1, sent / Math.max(1, total)) });
    }
  } finally {
    progress({ kind: 'done', step: STEP, cached: false, durationMs: systemClock.now() - startedAtMs });
  }
}
