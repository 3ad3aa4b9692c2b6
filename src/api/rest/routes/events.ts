/** Changes of all sandboxes, and events of one, as server-sent events (HTML standard, section 9.2). */
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import type { Clock } from '../../../base/clock.ts';
import { describeError } from '../../../base/errors.ts';
import type { Log } from '../../../base/log.ts';
import type { ControlPlane, LogChunk } from '../../../sandbox/contract/control.ts';
import type { SandboxTimedEvent } from '../../../sandbox/plane/event-journal.ts';
import { API_LIMITS } from '../limits.ts';
import { type ApiParts, type App, eventStream, failures, whenClosed } from '../route.ts';
import { eventsQuery, idParams } from '../schema/params.ts';
import { TenantSlots } from '../slots.ts';

/** Of all tenants. */
export const eventStreamSlots = (): TenantSlots =>
  new TenantSlots('event streams', API_LIMITS.eventStreamsMax, API_LIMITS.eventStreamShares);

/** @param takeStream takes a slot for an event stream and returns what releases it. @throws BusyError */
export function addEventRoutes(app: App, parts: ApiParts & { readonly takeStream: () => () => void }): void {
  const { control, clock, log, takeStream } = parts;
  app.get(
    '/events',
    {
      schema: {
        tags: ['sandboxes'],
        operationId: 'streamEvents',
        summary: 'Stream the changes of all sandboxes',
        description:
          'Server-sent events: `event: sandbox`, `data:` the sandbox as JSON. If the reader falls too far ' +
          'behind, `event: overflow` ends the stream; list the sandboxes and reconnect.',
        response: { 200: eventStream('The event stream.'), ...failures },
      },
    },
    (_request, reply) => {
      const giveBack = takeStream();
      reply.hijack();
      whenClosed(reply.raw, giveBack);
      streamChanges(reply.raw, control, clock);
    },
  );
  app.get(
    '/sandboxes/:id/events',
    {
      schema: {
        tags: ['sandboxes'],
        operationId: 'streamSandboxEvents',
        summary: 'Stream the events of a sandbox: memory, disk, actions, end',
        description:
          'Server-sent events: `id:` the sequence number, `event:` the type, `data:` a SandboxEvent as ' +
          'JSON. Stored events come first, then new ones; the stream ends after `end`. A gap between two ' +
          'numbers means that events came faster than they were read.',
        params: idParams,
        querystring: eventsQuery,
        response: { 200: eventStream('The event stream.'), ...failures },
      },
    },
    async ({ params, query }, reply) => {
      // An unknown sandbox is an HTTP error, not a stream.
      await control.get(params.id);
      const giveBack = takeStream();
      reply.hijack();
      whenClosed(reply.raw, giveBack);
      const parts = { clock, log, title: 'events of a sandbox' };
      const { after, follow } = query;
      await streamTexts(reply.raw, parts, (signal) =>
        texts(control.events(params.id, { after, follow, signal }), (event) =>
          eventText({ ...event, sandbox: params.id }),
        ),
      );
    },
  );
  addLogStream(app, parts);
}

function addLogStream(app: App, { control, clock, log, takeStream }: Parameters<typeof addEventRoutes>[1]): void {
  app.get(
    '/sandboxes/:id/logs/stream',
    {
      schema: {
        tags: ['sandboxes'],
        operationId: 'streamLogs',
        summary: 'Follow the serial console and the VMM log',
        description:
          'Server-sent events: `data:` a LogChunk as JSON. Stored output comes first, then new output, across ' +
          'all VMs of the sandbox; `event: end` ends the stream. A slow reader learns how many bytes it missed.',
        params: idParams,
        response: { 200: eventStream('The log stream.'), ...failures },
      },
    },
    async ({ params }, reply) => {
      await control.get(params.id);
      const giveBack = takeStream();
      reply.hijack();
      whenClosed(reply.raw, giveBack);
      const parts = { clock, log, title: 'logs of a sandbox' };
      await streamTexts(reply.raw, parts, (signal) =>
        texts(control.followLogs(params.id, signal), chunkText, 'event: end\ndata: {}\n\n'),
      );
    },
  );
}

const eventText = (event: SandboxTimedEvent): string =>
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

export async function streamTexts(
  response: ServerResponse,
  { clock, log, title }: { clock: Clock; log: Log; title: string },
  read: (signal: AbortSignal) => AsyncIterable<string>,
): Promise<void> {
  const left = new AbortController();
  beginStream(response, clock, title, () => left.abort());
  if (left.signal.aborted) return;
  try {
    for await (const text of read(left.signal)) {
      // While this waits, the source buffers within its own limit.
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

export function beginStream(response: ServerResponse, clock: Clock, title: string, onClose: () => void): void {
  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store', connection: 'close' });
  response.write(`: ${title}\n\n`);
  let stopTimer = (): void => undefined;
  const keepAlive = (): void => {
    stopTimer = clock.after(API_LIMITS.eventKeepAliveMs, () => {
      // A slow reader needs no keep-alive, since it has unread bytes.
      if (response.writableLength === 0) response.write(':\n\n');
      keepAlive();
    });
  };
  keepAlive();
  whenClosed(response, () => {
    onClose();
    stopTimer();
  });
}

function streamChanges(response: ServerResponse, control: ControlPlane, clock: Clock): void {
  const stop = control.onChange((info) => {
    if (response.writableLength < API_LIMITS.eventQueueBytesMax) {
      response.write(`event: sandbox\ndata: ${JSON.stringify(info)}\n\n`);
      return;
    }
    stop();
    response.end('event: overflow\ndata: {}\n\n');
  });
  beginStream(response, clock, 'changes of all sandboxes', stop);
}
