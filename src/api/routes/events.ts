/** Changes of sandboxes as server-sent events (HTML standard, section 9.2). */
import type { ServerResponse } from 'node:http';
import { z } from 'zod';
import type { Clock } from '../../base/clock.ts';
import type { ControlPlane } from '../../sandbox/control.ts';
import { LIMITS } from '../limits.ts';
import { type ApiParts, type App, failures } from '../route.ts';
import { Slots } from '../slots.ts';

export function addEventRoutes(app: App, { control, clock }: ApiParts): void {
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
}

function streamChanges(response: ServerResponse, control: ControlPlane, clock: Clock): void {
  response.writeHead(200, {
    'content-type': 'text/event-stream',
    'cache-control': 'no-store',
    connection: 'close',
  });
  response.write(': each change of a sandbox\n\n');
  const stop = control.onChange((info) => {
    if (response.writableLength < LIMITS.eventQueueBytesMax) {
      response.write(`event: sandbox\ndata: ${JSON.stringify(info)}\n\n`);
      return;
    }
    stop();
    response.end('event: overflow\ndata: {}\n\n');
  });
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
    stop();
    stopTimer();
  });
}
