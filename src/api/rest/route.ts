/** Types and helpers that the routes share. */
import type { ServerResponse } from 'node:http';
import { Socket } from 'node:net';
import { type Duplex, Readable } from 'node:stream';
import { setImmediate } from 'node:timers/promises';
import type {
  FastifyInstance,
  FastifyReply,
  RawReplyDefaultExpression,
  RawRequestDefaultExpression,
  RawServerDefault,
} from 'fastify';
import type { FastifyBaseLogger } from 'fastify/types/logger.js';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import type { Clock } from '../../base/clock.ts';
import type { Log } from '../../base/log.ts';
import type { ControlPlane } from '../../sandbox/contract/control.ts';
import { errorBody } from './schema/answers.ts';

export type App = FastifyInstance<
  RawServerDefault,
  RawRequestDefaultExpression,
  RawReplyDefaultExpression,
  FastifyBaseLogger,
  ZodTypeProvider
>;

export interface ApiParts {
  readonly control: ControlPlane;
  readonly clock: Clock;
  readonly log: Log;
}

export const eventStream = (description: string) => ({
  description,
  content: { 'text/event-stream': { schema: z.string() } },
});

export const failures = { default: errorBody } as const;

/** Characters of a list that are written in one turn of the event loop. */
const LIST_TURN_CHARACTERS = 64 * 1024;

/**
 * Answers with a list as JSON. Between its parts others have their turn: a tenant may have any number of sandboxes, and
 * a thousand with long labels take half a second to write.
 */
export function sendList<T extends z.ZodType>(
  reply: FastifyReply,
  item: T,
  items: readonly z.output<T>[],
  [head, tail]: readonly [string, string] = ['[', ']'],
): never {
  async function* parts(): AsyncGenerator<string, void> {
    let text = head;
    for (const [index, one] of items.entries()) {
      text += `${index === 0 ? '' : ','}${JSON.stringify(z.encode(item, one))}`;
      if (text.length < LIST_TURN_CHARACTERS) continue;
      yield text;
      text = '';
      await setImmediate();
    }
    yield text + tail;
  }
  // The types know only answers that are written at once.
  return reply.type('application/json; charset=utf-8').send(Readable.from(parts(), { objectMode: false })) as never;
}

/** Returns a signal that is aborted when the client disconnects before its answer is complete. */
export function clientGone({ raw }: { readonly raw: ServerResponse }): AbortSignal {
  const controller = new AbortController();
  const onClose = (): void => {
    if (!raw.writableFinished) controller.abort(new Error('the client disconnected'));
  };
  whenClosed(raw, onClose);
  return controller.signal;
}

/** Calls `run` once, when the answer is sent or its client has disconnected, which may have been long ago. */
export function whenClosed(response: ServerResponse, run: () => void): void {
  if (response.closed || response.destroyed) run();
  else response.once('close', run);
}

/** Connections whose last answer may be unread, each with a function that ends the watch. */
const unread = new WeakMap<Duplex, () => void>();

/**
 * Calls `undo` if the client disconnects without its answer. A client of a unix socket that closes it with unread data
 * resets the connection (unix(7)). A reset of a TCP connection proves nothing: the client may have read everything.
 */
export function onUndelivered({ raw }: FastifyReply, gone: AbortSignal, undo: () => void): void {
  if (gone.aborted) {
    undo();
    return;
  }
  const { socket } = raw;
  // A request of `app.inject` has no connection.
  if (!(socket instanceof Socket)) return;
  gone.addEventListener('abort', undo, { once: true });
  if (socket.remoteAddress !== undefined) return;
  const onError = (): void => {
    if (raw.writableFinished) undo();
  };
  socket.once('error', onError);
  unread.set(socket, () => socket.off('error', onError));
}

/** Call when the client sends another request, which shows that it has read its last answer. */
export function noteDelivered(socket: Duplex): void {
  unread.get(socket)?.();
  unread.delete(socket);
}
