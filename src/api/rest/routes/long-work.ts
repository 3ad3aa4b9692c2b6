/**
 * Answers of work that takes minutes: server-sent events with its progress, ended by its result or its error. A
 * client that disconnects cancels the work.
 */
import type { IncomingMessage } from 'node:http';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { describeError } from '../../../base/errors.ts';
import type { ProgressEvent } from '../../../base/progress.ts';
import type { HomeContents, LongWork } from '../../../sandbox/contract/contents.ts';
import { noteOutcome } from '../audit.ts';
import { errorAnswer, statusOf } from '../errors.ts';
import { API_LIMITS } from '../limits.ts';
import type { ApiParts } from '../route.ts';
import type { Slots } from '../slots.ts';
import { beginStream } from './events.ts';

const CLIENT_GONE = 499;

/** What routes of the home's contents share. */
export interface ContentsParts extends Pick<ApiParts, 'clock' | 'log'> {
  readonly contents: HomeContents;
  readonly slots: Slots;
  /** Work that has not ended yet, canceled or not. */
  readonly running: Set<Promise<object>>;
  /** Whether the request came at the home's socket: its user may read the host's files anyway. */
  readonly isLocal: (request: IncomingMessage) => boolean;
}

/** @param result name of its schema */
export const workText = (result: string): string =>
  'Server-sent events: `event: progress`, `data:` a ProgressEvent as JSON; at the end `event: result` with a ' +
  `${result}, or \`event: error\` with an ErrorBody. Closing the connection cancels the work.`;

/** @param mayBeMissed true: a slow reader misses it */
type Send = (event: string, data: object, mayBeMissed?: boolean) => void;

/** @param target for the audit log @throws BusyError before the stream begins */
export async function streamWork(
  request: FastifyRequest,
  reply: FastifyReply,
  { clock, log, slots, running, isLocal }: ContentsParts,
  target: string | null,
  work: (work: LongWork, send: Send) => Promise<object>,
): Promise<void> {
  const giveBack = slots.take();
  const { raw } = reply;
  const left = new AbortController();
  noteOutcome(request, { target, status: CLIENT_GONE });
  reply.hijack();
  beginStream(raw, clock, 'progress and result', () => left.abort(new Error('the client disconnected')));
  const send: Send = (event, data, mayBeMissed = false) => {
    if (mayBeMissed && raw.writableLength >= API_LIMITS.eventQueueBytesMax) return;
    if (!raw.destroyed) raw.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
  };
  const progress = (event: ProgressEvent): void => send('progress', event, event.kind === 'update');
  try {
    const result = await noted(running, work({ progress, signal: left.signal, readsHost: isLocal(request.raw) }, send));
    noteOutcome(request, { target, status: 200 });
    send('result', result);
  } catch (error) {
    const { status, body } = errorAnswer(error);
    if (statusOf(error) === undefined && !left.signal.aborted) {
      log.error(`${request.method} ${request.routeOptions.url ?? '?'}`, { error: describeError(error) });
    }
    if (!left.signal.aborted) noteOutcome(request, { target, status });
    send('error', body);
  } finally {
    giveBack();
    raw.end();
  }
}

async function noted<T extends object>(running: Set<Promise<object>>, work: Promise<T>): Promise<T> {
  running.add(work);
  try {
    return await work;
  } finally {
    running.delete(work);
  }
}
