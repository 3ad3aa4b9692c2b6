/** Types and helpers that the routes share. */
import type {
  FastifyInstance,
  FastifyReply,
  RawReplyDefaultExpression,
  RawRequestDefaultExpression,
  RawServerDefault,
} from 'fastify';
import type { FastifyBaseLogger } from 'fastify/types/logger.js';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import type { Clock } from '../base/clock.ts';
import type { Log } from '../base/log.ts';
import type { ControlPlane } from '../sandbox/control.ts';
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

/** Error answer of every route. */
export const failures = { default: errorBody } as const;

/** Returns a signal that is aborted when the client disconnects before its answer is complete. */
export function clientGone(reply: FastifyReply): AbortSignal {
  const controller = new AbortController();
  reply.raw.once('close', () => {
    if (!reply.raw.writableFinished) controller.abort(new Error('the client disconnected'));
  });
  return controller.signal;
}
