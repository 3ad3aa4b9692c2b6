/** Request bodies with size and time limits, so that a slow client can't hold a request open. */

import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { serializerCompiler, validatorCompiler } from 'fastify-type-provider-zod';
import type { z } from 'zod';
import type { Clock } from '../../base/clock.ts';
import { collect } from '../../base/collect.ts';
import { LoopTime } from '../../base/fairness/loop-time.ts';
import { ignore } from '../../base/ignore.ts';
import { JsonCount } from '../../base/text/json-values.ts';
import { BusyError } from '../../sandbox/contract/errors.ts';
import { ApiError } from './errors.ts';
import { API_LIMITS } from './limits.ts';

/** The part of the event loop that the large bodies of one tenant may take: one after another, with pauses. */
export class BodyTurns {
  readonly #clock: Clock;
  readonly #time: LoopTime;
  #waiting = 0;

  constructor(clock: Clock, time = new LoopTime(API_LIMITS.bodyLoopTime, clock)) {
    this.#clock = clock;
    this.#time = time;
  }

  /** Runs `work` at once for a small body. @throws BusyError; errors of `work` */
  async run<T>(bytes: number, work: () => T): Promise<T> {
    if (bytes <= API_LIMITS.bodyAtOnceBytesMax) return work();
    if (this.#waiting >= API_LIMITS.bodiesWaitingMax) {
      throw new BusyError(`${this.#waiting} large bodies wait for their turn, the maximum`, API_LIMITS.retryAfterMs);
    }
    this.#waiting += 1;
    try {
      while (!this.#time.isOpen) {
        await new Promise<void>((resolve) => this.#clock.after(Math.max(1, this.#time.waitMs), resolve));
      }
      return this.#time.run(work);
    } finally {
      this.#waiting -= 1;
    }
  }
}

/**
 * Reads an app's bodies as JSON, undefined if empty, and checks them by the schemas of their routes. Large ones take
 * turns for both.
 */
export function takeBodies(
  app: FastifyInstance,
  contentType: string,
  clock: Clock,
  turns = new BodyTurns(clock),
): void {
  const sizes = new WeakMap<WeakKey, number>();
  const checked = new WeakMap<WeakKey, unknown>();
  app.removeAllContentTypeParsers();
  app.addContentTypeParser(contentType, async (_request: FastifyRequest, source: Readable) => {
    const bytes = await readBody(source, clock);
    if (bytes.length === 0) return undefined;
    const body = await turns.run(bytes.length, () => parsed(bytes, 'the body'));
    if (typeof body === 'object' && body !== null) sizes.set(body, bytes.length);
    return body;
  });
  app.setValidatorCompiler<z.ZodType>((route) => {
    const check = validatorCompiler(route);
    return (part) => checked.get(part) ?? check(part);
  });
  app.setSerializerCompiler(serializerCompiler);
  app.addHook('preValidation', async (request) => {
    const body = request.body as WeakKey;
    const bytes = sizes.get(body);
    const check = request.getValidationFunction('body');
    if (bytes !== undefined && check !== undefined) checked.set(body, await turns.run(bytes, () => check(body)));
  });
}

/** @throws ApiError `too_large`, `request_timeout` */
function readBody(body: Readable, clock: Clock): Promise<Buffer> {
  const { bodyBytesMax, bodyMsMax } = API_LIMITS;
  const tooLarge = (): Error => new ApiError('too_large', `the JSON body is larger than ${bodyBytesMax} bytes`);
  return within(collect(counted(chunks(body), 'the body'), bodyBytesMax, tooLarge), clock, bodyMsMax, 'the body');
}

/** Counts values as they arrive, in short turns of the event loop. @throws ApiError `too_large` */
export async function* counted(source: AsyncIterable<Buffer>, what: string): AsyncGenerator<Buffer> {
  const count = new JsonCount(API_LIMITS.bodyJson);
  for await (const part of source) {
    const excess = count.add(part);
    if (excess !== null) throw new ApiError('too_large', `${what} has more than ${excess}`);
    yield part;
  }
}

/** @param bytes counted ones @param what the part of the request, for errors. @throws ApiError `request_invalid` */
export function parsed(bytes: Buffer, what: string): unknown {
  try {
    return JSON.parse(bytes.toString()) as unknown;
  } catch (error) {
    throw new ApiError('request_invalid', `${what} is not valid JSON`, { cause: error });
  }
}

/** Yields the chunks of `body`, each of which must arrive within `LIMITS.uploadIdleMsMax`. */
export async function* withIdleLimit(body: Readable, clock: Clock): AsyncGenerator<Buffer> {
  const source = chunks(body);
  try {
    for (;;) {
      const next = await within(source.next(), clock, API_LIMITS.uploadIdleMsMax, 'more of the content');
      if (next.done === true) return;
      yield next.value;
    }
  } finally {
    // Not awaited: it would wait for the late chunk.
    source.return?.().catch((error: unknown) => ignore(error, 'the rest of the body is discarded'));
  }
}

/**
 * Reads and drops the rest of a refused request. Resolves at its end, or after `LIMITS.lingerMsMax`. Without it a
 * client that is still sending may not see the answer.
 */
export function discardRest(request: IncomingMessage, clock: Clock): Promise<void> {
  if (request.complete) return Promise.resolve();
  request.on('error', (error) => ignore(error, 'the rest of the body is discarded'));
  // A `readable` listener of an earlier reader would keep the stream from flowing.
  request.removeAllListeners('readable');
  request.on('data', () => undefined);
  request.resume();
  return new Promise((resolve) => {
    const stop = clock.after(API_LIMITS.lingerMsMax, resolve);
    request.once('close', () => {
      stop();
      resolve();
    });
  });
}

/** Call before the answer to a request that is refused by `error`. */
export async function discardBody(
  error: Error,
  { raw }: FastifyRequest,
  reply: FastifyReply,
  clock: Clock,
): Promise<void> {
  const rest = discardRest(raw, clock);
  const isStalled = error instanceof ApiError && error.code === 'request_timeout';
  const isClosing = !reply.raw.shouldKeepAlive || reply.getHeader('connection') === 'close';
  // The connection closes right after the answer, so the answer waits. Fastify closes it if it did not read the body.
  if (isClosing && !isStalled) return await rest;
  void rest.then(() => {
    if (!raw.complete) raw.destroy();
  });
}

/** Iterates without destroying the stream at an early end, since the answer needs the connection. */
function chunks(body: Readable): AsyncIterator<Buffer> & AsyncIterable<Buffer> {
  return body.iterator({ destroyOnReturn: false });
}

async function within<T>(work: Promise<T>, clock: Clock, ms: number, what: string): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const stop = clock.after(ms, () => reject(new ApiError('request_timeout', `${what} did not arrive within ${ms} ms`)));
  return await Promise.race([work, promise]).finally(stop);
}
