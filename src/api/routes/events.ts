/** Changes of all sandboxes, and events of one, as server-sent events (HTML standard, section 9.2). */
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { z } from 'zod';
import type { Clock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { ControlPlane } from '../../sandbox/control.ts';
import type { TimedEvent } from '../../sandbox/event-journal.ts';
import { LIMITS } from '../limits.ts';
import { type ApiParts, type App, failures } from '../route.ts';
import { timedEvent } from '../schema/answers.ts';
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
      await streamEvents(reply.raw, clock, log, (signal) =>
        control.events(params.id, { after: query.after, follow: query.follow, signal }),
      );
    },
  );
}

async function streamEvents(
  response: ServerResponse,
  clock: Clock,
  log: Log,
  events: (signal: AbortSignal) => AsyncIterable<TimedEvent>,
): Promise<void> {
  const left = new AbortController();
  begin(response, clock, 'events of a sandbox', () => left.abort());
  try {
    for await (const event of events(left.signal)) {
      const { seq, type } = event;
      const text = `id: ${seq}\nevent: ${type}\ndata: ${JSON.stringify(event)}\n\n`;
      // Waiting, this takes no event: what comes meanwhile is kept within a limit by the journal.
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
