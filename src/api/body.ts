/** Request bodies, with limits of size and time: a client that sends slowly does not hold a request. */
import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import type { Clock } from '../base/clock.ts';
import { ignore } from '../base/ignore.ts';
import { ApiError } from './errors.ts';
import { LIMITS } from './limits.ts';

/** An empty body is no body. @throws ApiError `too_large`, `request_timeout`, `request_invalid` */
export async function readJsonBody(body: Readable, clock: Clock): Promise<unknown> {
  const parts: Buffer[] = [];
  let bytes = 0;
  const reading = (async (): Promise<void> => {
    for await (const part of pieces(body)) {
      bytes += part.length;
      if (bytes > LIMITS.bodyBytesMax) {
        throw new ApiError('too_large', `a JSON body has at most ${LIMITS.bodyBytesMax} bytes`);
      }
      parts.push(part);
    }
  })();
  await within(reading, clock, LIMITS.bodyMsMax, 'the body');
  if (bytes === 0) return undefined;
  try {
    return JSON.parse(Buffer.concat(parts).toString()) as unknown;
  } catch (error) {
    throw new ApiError('request_invalid', 'the body is no JSON', { cause: error });
  }
}

/** The pieces of `body`, each of which must come within `LIMITS.uploadIdleMsMax`. */
export async function* withIdleLimit(body: Readable, clock: Clock): AsyncGenerator<Buffer> {
  const source = pieces(body);
  try {
    for (;;) {
      const next = await within(
        source.next(),
        clock,
        LIMITS.uploadIdleMsMax,
        'more of the content',
      );
      if (next.done === true) return;
      yield next.value;
    }
  } finally {
    // Not awaited: it waits for the piece that is late.
    source.return?.().catch((error: unknown) => ignore(error, 'the rest of a body is not wanted'));
  }
}

/**
 * Reads and drops what a refused request still sends. Resolves at its end, or when that takes too long:
 * a client that is cut off while it sends may not see the answer.
 */
export function discardRest(request: IncomingMessage, clock: Clock): Promise<void> {
  if (request.complete) return Promise.resolve();
  request.on('error', (error) => ignore(error, 'the rest of a body is not wanted'));
  // Who read it may still wait for a next piece, and nothing flows as long as one listens for that, nor
  // after that listener goes, unless somebody wants data.
  request.removeAllListeners('readable');
  request.on('data', () => undefined);
  request.resume();
  return new Promise((resolve) => {
    const stop = clock.after(LIMITS.lingerMsMax, resolve);
    request.once('close', () => {
      stop();
      resolve();
    });
  });
}

/** Ending it early leaves the stream open: destroying it would take the connection from the answer. */
function pieces(body: Readable): AsyncIterator<Buffer> & AsyncIterable<Buffer> {
  return body.iterator({ destroyOnReturn: false });
}

async function within<T>(work: Promise<T>, clock: Clock, ms: number, what: string): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const stop = clock.after(ms, () =>
    reject(new ApiError('request_timeout', `${what} did not come within ${ms} ms`)),
  );
  try {
    return await Promise.race([work, promise]);
  } finally {
    stop();
  }
}
