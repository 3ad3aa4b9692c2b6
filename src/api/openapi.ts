/** The description of the interface, made from its schemas: `spec/openapi.json`, `GET /v1/openapi.json`. */
import swagger from '@fastify/swagger';
import type { FastifyInstance } from 'fastify';
import { jsonSchemaTransform, jsonSchemaTransformObject } from 'fastify-type-provider-zod';

/** Of the interface, not of the product: changes when a client would have to. */
const API_VERSION = '1.0.0';

const DESCRIPTION = `
Sandboxes for programs of AI agents: microVMs without a network, whose models stay on this host.

A first sandbox, with the server of \`neurovisor serve\` at its unix socket:

    curl --unix-socket ~/.neurovisor/run/daemon.sock -X POST http://localhost/v1/sandboxes
    curl --unix-socket ~/.neurovisor/run/daemon.sock http://localhost/v1/sandboxes/ID/exec \\
      -H 'content-type: application/json' -d '{"code": "print(6 * 7)"}'
    curl --unix-socket ~/.neurovisor/run/daemon.sock -X DELETE http://localhost/v1/sandboxes/ID

On a port, each request carries the API key. Errors have one shape, \`{"error": {"code", "message",
"remedy"}}\`; \`code\` is stable. A server that is busy answers 429 with \`Retry-After\`.
`.trim();

export async function describeApi(app: FastifyInstance): Promise<void> {
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'NeuroVisor',
        version: API_VERSION,
        description: DESCRIPTION,
        license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
      },
      servers: [{ url: 'http://localhost', description: 'At the unix socket, or with a port.' }],
      tags: [
        { name: 'sandboxes', description: 'One microVM each, with its limits, policy and life.' },
        { name: 'guest', description: 'What runs in a sandbox.' },
        { name: 'files', description: 'Files of a sandbox, as streams.' },
        { name: 'snapshots', description: 'Kept states, to start sandboxes from.' },
        { name: 'pools', description: 'Sandboxes that wait to be handed out in milliseconds.' },
        { name: 'host', description: 'The server and its machine.' },
      ],
      components: {
        securitySchemes: {
          bearer: { type: 'http', scheme: 'bearer' },
          header: { type: 'apiKey', in: 'header', name: 'X-API-Key' },
        },
      },
      security: [{ bearer: [] }, { header: [] }, {}],
    },
    transform: jsonSchemaTransform,
    transformObject: jsonSchemaTransformObject,
  });
}
