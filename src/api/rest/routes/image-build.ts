/** Builds of Dockerfiles: a request whose body is a line of JSON and, after it, the files that COPY takes. */
import { Readable } from 'node:stream';
import { z } from 'zod';
import { collect } from '../../../base/collect.ts';
import type { BuildEvent } from '../../../sandbox/contract/contents.ts';
import { BUILD_LIMITS } from '../../../sandbox/contract/limits.ts';
import { imageBuild } from '../../../sandbox/contract/schema/contents.ts';
import { parseJson } from '../../../sandbox/contract/schema/parse.ts';
import { counted, discardRest, parsed, withIdleLimit } from '../body.ts';
import { ApiError } from '../errors.ts';
import { type App, eventStream, failures } from '../route.ts';
import type { SentBuildEvent } from '../schema/contents.ts';
import { type ContentsParts, streamWork, workText } from './long-work.ts';

const NEWLINE = 0x0a;
const FIRST_LINE = 'the first line of the body';
const content = z.custom<Readable>().meta({ type: 'string', format: 'binary' });

export function addImageBuildRoute(app: App, parts: ContentsParts): void {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', (_request, payload, done) => done(null, payload));
  app.post(
    '/images/build',
    {
      schema: {
        tags: ['images'],
        operationId: 'buildImage',
        summary: 'Build an image from a Dockerfile',
        description:
          'The body is an ImageBuild as one line of JSON and, if its context is `sent`, a tar archive of the files after ' +
          `the line break. ${workText('BuiltImage')} Between them \`event: build\`, \`data:\` a BuildEvent as JSON.`,
        consumes: ['application/octet-stream'],
        body: content,
        response: { 200: eventStream('What the build does, then the result.'), ...failures },
      },
    },
    async (request, reply) => {
      const { body } = request;
      const chunks = withIdleLimit(body instanceof Readable ? body : Readable.from([]), parts.clock);
      const { line, rest } = await firstLine(chunks);
      const build = parseJson(imageBuild, line);
      const files = build.context.kind === 'sent' ? rest : null;
      await streamWork(request, reply, parts, build.name ?? null, (work, send) => {
        const onEvent = (event: BuildEvent): void => send('build', sentEvent(event), event.kind === 'output');
        return parts.contents.images.build(build, files, { ...work, onEvent });
      });
      await discardRest(request.raw, parts.clock);
    },
  );
}

/** @throws ApiError `request_invalid`, `too_large` */
async function firstLine(
  chunks: AsyncGenerator<Buffer>,
): Promise<{ readonly line: unknown; readonly rest: AsyncIterable<Buffer> }> {
  let rest: Buffer = Buffer.alloc(0);
  async function* line(): AsyncGenerator<Buffer> {
    for (;;) {
      const { done, value } = await chunks.next();
      if (done === true) return;
      const end = value.indexOf(NEWLINE);
      yield end < 0 ? value : value.subarray(0, end);
      if (end < 0) continue;
      rest = value.subarray(end + 1);
      return;
    }
  }
  const tooLarge = (): Error =>
    new ApiError('too_large', `${FIRST_LINE} is longer than ${BUILD_LIMITS.lineBytesMax} bytes`);
  const bytes = await collect(counted(line(), FIRST_LINE), BUILD_LIMITS.lineBytesMax, tooLarge);
  async function* all(): AsyncGenerator<Buffer> {
    if (rest.length > 0) yield rest;
    yield* chunks;
  }
  return { line: parsed(bytes, FIRST_LINE), rest: all() };
}

function sentEvent(event: BuildEvent): SentBuildEvent {
  if (event.kind !== 'output') return event;
  const { chunk, ...rest } = event;
  return { ...rest, base64: Buffer.from(chunk).toString('base64') };
}
