/** The OpenAPI document, generated from the schemas: `spec/openapi.json`, `GET /v1/openapi.json`. */
import swagger from '@fastify/swagger';
import type { FastifyInstance } from 'fastify';
import { jsonSchemaTransform, jsonSchemaTransformObject } from 'fastify-type-provider-zod';

/** Version of the API, not of the product: changes when clients have to change. */
const API_VERSION = '1.0.0';

const DESCRIPTION = `
Sandboxes for AI agents: microVMs without a network unless asked for, whose models stay on this host.

A first sandbox, with the server of \`neurovisor serve\` at its unix socket:

    curl --unix-socket ~/.neurovisor/run/daemon.sock -X POST http://localhost/v1/sandboxes
    curl --unix-socket ~/.neurovisor/run/daemon.sock http://localhost/v1/sandboxes/ID/exec \\
      -H 'content-type: application/json' -d '{"code": "print(6 * 7)"}'
    curl --unix-socket ~/.neurovisor/run/daemon.sock -X DELETE http://localhost/v1/sandboxes/ID

On a port, every request needs the API key. Errors have one shape, \`{"error": {"code", "message",
"remedy"}}\`; \`code\` is stable. A busy server answers 429 with \`Retry-After\`.
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
      servers: [
        { url: 'http://localhost', description: 'The unix socket, or a port of 127.0.0.1.' },
      ],
      tags: [
        {
          name: 'sandboxes',
          description: 'One microVM each, with its limits, policy and lifetime.',
        },
        { name: 'guest', description: 'Programs in a sandbox.' },
        { name: 'files', description: 'Files of a sandbox, streamed.' },
        { name: 'snapshots', description: 'Saved states to start sandboxes from.' },
        { name: 'pools', description: 'Ready sandboxes, handed out in milliseconds.' },
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
    transformObject: (document) => tidy(jsonSchemaTransformObject(document)),
  });
}

/** Cleans up after the generators: unused schemas, empty descriptions, optional bodies. */
function tidy(document: object): object {
  const described = JSON.parse(JSON.stringify(document, withoutNoise)) as OpenApiDocument;
  for (const operation of Object.values(described.paths).flatMap((path) => Object.values(path))) {
    for (const [status, response] of Object.entries(operation.responses)) {
      if (response.description !== 'Default Response') continue;
      response.description = status === 'default' ? 'Error; the body says why.' : 'Success.';
    }
    const body = operation.requestBody;
    const schema = body?.content['application/json']?.schema;
    if (body === undefined || schema === undefined) continue;
    const whole = described.components.schemas[schema.$ref?.split('/').at(-1) ?? ''] ?? schema;
    body.required = whole.required !== undefined || whole.oneOf !== undefined;
  }
  return withUsedSchemas(described);
}

/** Drops a maximum that every JSON number has. */
function withoutNoise(key: string, value: unknown): unknown {
  return key === 'maximum' && value === Number.MAX_SAFE_INTEGER ? undefined : value;
}

/**
 * Removes unused schemas. The generator emits each schema twice, for requests (`…Input`) and for answers;
 * here each is used in one of the two only.
 */
function withUsedSchemas(document: OpenApiDocument): object {
  const { schemas } = document.components;
  const isUsed = (name: string): boolean =>
    JSON.stringify(document).includes(`"#/components/schemas/${name}"`);
  for (let before = -1; before !== Object.keys(schemas).length; ) {
    before = Object.keys(schemas).length;
    for (const name of Object.keys(schemas)) if (!isUsed(name)) delete schemas[name];
  }
  let text = JSON.stringify(document);
  for (const name of Object.keys(schemas)) {
    const short = name.replace(/Input$/, '');
    if (short in schemas) continue;
    text = text.replaceAll(`"#/components/schemas/${name}"`, `"#/components/schemas/${short}"`);
    text = text.replace(`"${name}":{`, `"${short}":{`);
  }
  return JSON.parse(text) as object;
}

interface OpenApiDocument {
  readonly paths: Record<string, Record<string, OpenApiOperation>>;
  readonly components: { readonly schemas: Record<string, OpenApiSchema> };
}

interface OpenApiOperation {
  readonly responses: Record<string, { description: string }>;
  readonly requestBody?: {
    required?: boolean;
    readonly content: Record<string, { readonly schema: OpenApiSchema }>;
  };
}

interface OpenApiSchema {
  readonly $ref?: string;
  readonly required?: readonly string[];
  readonly oneOf?: readonly object[];
}
