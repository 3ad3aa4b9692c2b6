/** Changes of all sandboxes, and events of one, as server-sent events (HTML standard, section 9.2). */
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { z } from 'zod';
import type { Clock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { ControlPlane, LogChunk } from '../../sandbox/control.ts';
import type { TimedEvent } from '../../sandbox/events.ts';
import { LIMITS } from '../limits.ts';
import { type ApiParts, type App, failures } from '../route.ts';
import { logChunk, timedEvent } from '../schema/answers.ts';
import { eventsQuery, idParams } from '../schema/requests.ts';
import { Slots } from '../slots.ts';

export function addEventRoutes(app: App, { control, clock, log }: ApiParts): void {
  const slots = new Slots('event streams', LIMITS.eventStreamsMax);
  app.get(
    '/events',
    {
      schema: {
        tags: ['sandboxes'],
        operationId: 'streamEvents',
        summary: 'Each change of a sandbox, as it happens',
        description:
          'Server-sent events: `event: sandbox`, `data:` the sandbox as JSON. A reader that is too far ' +
          'behind is told `event: overflow`, and the stream ends; list the sandboxes and ask again.',
        response: {
          200: {
            description: 'Events.',
            content: { 'text/event-stream': { schema: z.string() } },
          },
          ...failures,
        },
      },
    },
    (_request, reply) => {
      const giveBack = slots.take();
      reply.hijack();
      reply.raw.once('close', giveBack);
      streamChanges(reply.raw, control, clock);
    },
  );
  app.get(
    '/sandboxes/:id/events',
    {
      schema: {
        tags: ['sandboxes'],
        operationId: 'streamSandboxEvents',
        summary: 'What happens to its memory, what was done about it, and its end',
        description:
          'Server-sent events: `id:` the number of the event, `event:` its type, `data:` a SandboxEvent as ' +
          'JSON. First those that are kept, then each as it comes; after `end` the stream ends. What is ' +
          'missing between two numbers came faster than it was read.',
        params: idParams,
        querystring: eventsQuery,
        response: {
          200: {
            description: 'Events.',
            content: { 'text/event-stream': { schema: timedEvent } },
          },
          ...failures,
        },
      },
    },
    async ({ params, query }, reply) => {
      // What is not there is an answer with a status, not a stream.
      await control.get(params.id);
      const giveBack = slots.take();
      reply.hijack();
      reply.raw.once('close', giveBack);
      const parts = { clock, log, title: 'events of a sandbox' };
      const { after, follow } = query;
      await streamTexts(reply.raw, parts, (signal) =>
        texts(control.events(params.id, { after, follow, signal }), eventText),
      );
    },
  );
  addLogStream(app, { control, clock, log }, slots);
}

function addLogStream(app: App, { control, clock, log }: ApiParts, slots: Slots): void {
  app.get(
    '/sandboxes/:id/logs/stream',
    {
      schema: {
        tags: ['sandboxes'],
        operationId: 'streamLogs',
        summary: 'Its serial console and the log of its VMM, as they are written',
        description:
          'Server-sent events: `data:` a LogChunk as JSON; first what is kept, then what comes, over all its ' +
          'VMs. After its end `event: end`. A reader that is slow is told how many bytes it has missed.',
        params: idParams,
        response: {
          200: {
            description: 'Chunks.',
            content: { 'text/event-stream': { schema: logChunk } },
          },
          ...failures,
        },
      },
    },
    async ({ params }, reply) => {
      await control.get(params.id);
      const giveBack = slots.take();
      reply.hijack();
      reply.raw.once('close', giveBack);
      const parts = { clock, log, title: 'logs of a sandbox' };
      await streamTexts(reply.raw, parts, (signal) =>
        texts(control.followLogs(params.id, signal), chunkText, 'event: end\ndata: {}\n\n'),
      );
    },
  );
}

const eventText = (event: TimedEvent): string =>
  `id: ${event.seq}\nevent: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`;
const chunkText = (chunk: LogChunk): string => `data: ${JSON.stringify(chunk)}\n\n`;

async function* texts<T>(
  values: AsyncIterable<T>,
  textOf: (value: T) => string,
  last?: string,
): AsyncGenerator<string, void> {
  for await (const value of values) yield textOf(value);
  if (last !== undefined) yield last;
}

async function streamTexts(
  response: ServerResponse,
  { clock, log, title }: { clock: Clock; log: Log; title: string },
  read: (signal: AbortSignal) => AsyncIterable<string>,
): Promise<void> {
  const left = new AbortController();
  begin(response, clock, title, () => left.abort());
  try {
    for await (const text of read(left.signal)) {
      // Waiting, this takes nothing: what comes meanwhile is kept within a limit where it comes from.
      if (!response.write(text)) await once(response, 'drain', { signal: left.signal });
    }
    response.end();
  } catch (error) {
    if (!left.signal.aborted) {
      log.warn('an event stream ended', { reason: describeError(error) });
      response.destroy();
    }
  }
}

/** Head and signs of life. */
function begin(response: ServerResponse, clock: Clock, title: string, onClose: () => void): void {
  response.writeHead(200, {
    'content-type': 'text/event-stream',
    'cache-control': 'no-store',
    connection: 'close',
  });
  response.write(`: ${title}\n\n`);
  let stopTimer = (): void => undefined;
  const keepAlive = (): void => {
    stopTimer = clock.after(LIMITS.eventKeepAliveMs, () => {
      // A reader that takes nothing has what it needs: unread bytes.
      if (response.writableLength === 0) response.write(':\n\n');
      keepAlive();
    });
  };
  keepAlive();
  response.once('close', () => {
    onClose();
    stopTimer();
  });
}

function streamChanges(response: ServerResponse, control: ControlPlane, clock: Clock): void {
  begin(response, clock, 'each change of a sandbox', () => stop());
  const stop = control.onChange((info) => {
    if (response.writableLength < LIMITS.eventQueueBytesMax) {
      response.write(`event: sandbox\ndata: ${JSON.stringify(info)}\n\n`);
      return;
    }
    stop();
    response.end('event: overflow\ndata: {}\n\n');
  });
}
