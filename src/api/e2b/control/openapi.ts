/** Generates the OpenAPI document of E2B's interface from the schemas: `spec/e2b-openapi.json`. */
import type { FastifyInstance } from 'fastify';
import { describeApi } from '../../rest/schema/openapi.ts';
import { e2bSchemas } from './schema.ts';

/** E2B's name of this interface version. */
const VERSION = '0.1.0';

const DESCRIPTION = `
The part of E2B's control plane that NeuroVisor serves to E2B's unmodified clients, on the port of \`neurovisor serve\`
(docs/e2b.md). Unknown fields of requests are ignored. Errors have one shape, \`{"code", "message"}\`, with the status as
\`code\`; \`Should-Retry\` and \`Retry-After\` say whether another try helps.
`.trim();

export async function describeControl(app: FastifyInstance): Promise<void> {
  await describeApi(app, {
    info: { title: 'NeuroVisor for clients of E2B', version: VERSION, description: DESCRIPTION },
    server: 'A port of 127.0.0.1.',
    tags: [
      { name: 'sandboxes', description: 'One microVM each.' },
      { name: 'snapshots', description: 'Saved states, used as templates.' },
      { name: 'metrics', description: 'What sandboxes use.' },
      { name: 'events', description: 'Events of sandboxes, and webhooks that receive them.' },
      { name: 'logs', description: 'Consoles of sandboxes.' },
    ],
    schemas: e2bSchemas,
  });
}
