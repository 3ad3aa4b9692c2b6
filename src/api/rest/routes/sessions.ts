/** Opens sessions: `../sessions.ts`. */
import { type ApiParts, type App, eventStream, failures } from '../route.ts';
import type { Sessions } from '../sessions.ts';
import { beginStream } from './events.ts';

export function addSessionRoute(
  app: App,
  { clock, sessions }: Pick<ApiParts, 'clock'> & { readonly sessions: Sessions },
): void {
  app.get(
    '/session',
    {
      schema: {
        tags: ['sandboxes'],
        operationId: 'openSession',
        summary: 'Open a session, whose sandboxes end with this connection',
        description:
          'Server-sent events: `event: session`, `data:` an object with the `id` of the session; then the ' +
          'stream is silent. Sandboxes that are created with the header `NeuroVisor-Session: ID` are removed ' +
          'when the connection closes, so they never outlive the process of their client.',
        response: { 200: eventStream('The event stream.'), ...failures },
      },
    },
    (_request, reply) => {
      const session = sessions.open();
      reply.hijack();
      beginStream(reply.raw, clock, 'a session', () => session.close());
      reply.raw.write(`event: session\ndata: ${JSON.stringify({ id: session.id })}\n\n`);
    },
  );
}
