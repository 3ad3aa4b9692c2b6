/** The OpenAPI document, generated from the schemas: `spec/openapi.json`, `GET /v1/openapi.json`. */
import { isDeepStrictEqual } from 'node:util';
import swagger from '@fastify/swagger';
import type { FastifyInstance } from 'fastify';
import { createJsonSchemaTransform, createJsonSchemaTransformObject } from 'fastify-type-provider-zod';
import type { z } from 'zod';
import { assert } from '../../../base/assert.ts';

/** Version of the API, not of the product. Changes when clients have to change. */
const API_VERSION = '1.0.0';

const DESCRIPTION = `
Sandboxes for AI agents: microVMs without a network unless asked for, whose prompts stay on this host unless allowed.

A first sandbox, with the server of \`neurovisor serve\` at its unix socket:

    curl --unix-socket ~/.neurovisor/run/daemon.sock -X POST http://localhost/v1/sandboxes
    curl --unix-socket ~/.neurovisor/run/daemon.sock http://localhost/v1/sandboxes/ID/exec \\
      -H 'content-type: application/json' -d '{"code": "print(6 * 7)"}'
    curl --unix-socket ~/.neurovisor/run/daemon.sock -X DELETE http://localhost/v1/sandboxes/ID

On a port, every request needs the API key. Errors have one shape, \`{"error": {"code", "message",
"remedy"}}\`; \`code\` is stable. A busy server answers 429 with \`Retry-After\`.
`.trim();

type SchemaOptions = NonNullable<Parameters<typeof createJsonSchemaTransformObject>[0]['zodToJsonConfig']>;
/**
 * Answers may grow, so they are open; requests are strict, so they stay closed. `readOnly` is about TypeScript: in a
 * document it would mean that requests can't have the field.
 */
const JSON_SCHEMA: SchemaOptions = {
  override: ({ zodSchema, jsonSchema }) => {
    const { def } = zodSchema._zod;
    if (def.type === 'readonly') delete jsonSchema.readOnly;
    if (def.type === 'object' && !('catchall' in def)) delete jsonSchema.additionalProperties;
  },
};

/** Schemas of lines of event streams: OpenAPI 3.1 describes only a whole body, which is text. */
const STREAMED = [
  'Sandbox',
  'SandboxEvent',
  'LogChunk',
  'AuditRecord',
  'ProgressEvent',
  'ImagePull',
  'ImageBuild',
  'BuildEvent',
  'BuiltImage',
  'Template',
  'ImportedTemplate',
  'ModelPull',
];

export interface ApiDescription {
  readonly info: { readonly title: string; readonly version: string; readonly description: string };
  readonly server: string;
  readonly tags: readonly { readonly name: string; readonly description: string }[];
  /** If true, a bearer token is also accepted, and no key is needed on a socket. Default false. */
  readonly isOwn?: boolean;
  /** Names of schemas. Default: zod's global ones. */
  readonly schemas?: z.core.$ZodRegistry<{ id?: string | undefined }>;
  /** Schemas that belong to the document without being referenced. */
  readonly streamed?: readonly string[];
}

const OWN: ApiDescription = {
  info: { title: 'NeuroVisor', version: API_VERSION, description: DESCRIPTION },
  server: 'The unix socket, or a port of 127.0.0.1.',
  tags: [
    { name: 'sandboxes', description: 'One microVM each, with its limits, policy and lifetime.' },
    { name: 'guest', description: 'Programs in a sandbox.' },
    { name: 'files', description: 'Files of a sandbox, streamed.' },
    { name: 'snapshots', description: 'Saved states to start sandboxes from.' },
    { name: 'pools', description: 'Ready sandboxes, handed out in milliseconds.' },
    { name: 'images', description: 'Container images, as disks of sandboxes. The operator’s.' },
    { name: 'templates', description: 'Booted guests that sandboxes are cloned from. The operator’s.' },
    { name: 'models', description: 'Models of the built-in engine. The operator’s.' },
    { name: 'host', description: 'The server and its machine.' },
    { name: 'administration', description: 'Keys, tenants, settings and audit logs: only for the operator.' },
  ],
  isOwn: true,
  streamed: STREAMED,
};

export async function describeApi(app: FastifyInstance, api = OWN): Promise<void> {
  const { info, server, tags, schemas, isOwn = false, streamed = [] } = api;
  const options = { zodToJsonConfig: JSON_SCHEMA, ...(schemas === undefined ? {} : { schemaRegistry: schemas }) };
  const completed = createJsonSchemaTransformObject(options);
  const header = { type: 'apiKey', in: 'header', name: 'X-API-Key' } as const;
  const bearer = { type: 'http', scheme: 'bearer' } as const;
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: { ...info, license: { name: 'Apache-2.0', identifier: 'Apache-2.0' } },
      servers: [{ url: 'http://localhost', description: server }],
      tags: [...tags],
      components: { securitySchemes: isOwn ? { bearer, header } : { header } },
      security: isOwn ? [{ bearer: [] }, { header: [] }, {}] : [{ header: [] }],
    },
    transform: createJsonSchemaTransform(options),
    transformObject: (document) => tidy(completed(document), streamed),
  });
}

/**
 * Cleans up after the generators: duplicate or unused schemas, formats, unions, empty descriptions, optional bodies.
 */
function tidy(document: object, streamed: readonly string[]): object {
  const plain = JSON.parse(JSON.stringify(document, withoutNoise));
  const described = withSchemasOnce(plain, streamed);
  const { schemas } = described.components;
  completeSchemas(described, schemas);
  for (const operation of Object.values(described.paths).flatMap((path) => Object.values(path))) {
    for (const [status, response] of Object.entries(operation.responses)) {
      if (response.description !== 'Default Response') continue;
      response.description = status === 'default' ? 'Error; the body says why.' : 'Success.';
    }
    const body = operation.requestBody;
    const schema = body?.content['application/json']?.schema;
    if (body === undefined || schema === undefined) continue;
    const whole = schemas[nameOf(schema.$ref)] ?? schema;
    body.required = whole.required !== undefined || whole.oneOf !== undefined;
  }
  return described;
}

function withoutNoise(key: string, value: unknown): unknown {
  return key === 'maximum' && value === Number.MAX_SAFE_INTEGER ? undefined : value;
}

/**
 * The generator emits each schema twice, as `…Input` for requests. Keeps one under its own name, and drops unreferenced
 * ones.
 */
function withSchemasOnce(document: OpenApiDocument, streamed: readonly string[]): OpenApiDocument {
  const { schemas, ...components } = document.components;
  const used = new Map(streamed.map((name) => [name, schemas[name]] as const));
  const collect = (text: string): void => {
    for (const [, name = ''] of text.matchAll(/"#\/components\/schemas\/(\w+)"/g)) {
      if (used.has(name)) continue;
      used.set(name, schemas[name]);
      collect(JSON.stringify(schemas[name]));
    }
  };
  for (const name of streamed) collect(JSON.stringify(schemas[name]));
  collect(JSON.stringify({ ...document, components }));
  const once: Record<string, OpenApiSchema> = {};
  for (const [name, schema] of used) {
    const short = name.replace(/Input$/, '');
    const renamed = JSON.parse(withoutInput(JSON.stringify(schema))) as OpenApiSchema;
    assert(
      once[short] === undefined || isDeepStrictEqual(once[short], renamed),
      `the schema ${short} differs between requests and answers: it needs two names`,
    );
    once[short] = renamed;
  }
  const rest = JSON.parse(withoutInput(JSON.stringify({ ...document, components })));
  return { ...rest, components: { ...components, schemas: once } };
}

const withoutInput = (text: string): string => text.replaceAll(/("#\/components\/schemas\/\w+?)Input"/g, '$1"');

const nameOf = ($ref = ''): string => $ref.replace('#/components/schemas/', '');

/**
 * Adds information that generators need beyond JSON Schema: the discriminator of unions, and that numbers are 64 bits
 * wide (Go's generator assumes 32 otherwise).
 */
function completeSchemas(value: unknown, schemas: OpenApiDocument['components']['schemas']): void {
  if (typeof value !== 'object' || value === null) return;
  const schema = value as OpenApiSchema;
  const types = [schema.type].flat();
  if (types.includes('integer')) schema.format ??= 'int64';
  if (types.includes('number')) schema.format ??= 'double';
  if (Array.isArray(schema.oneOf)) {
    const discriminator = discriminatorOf(schema.oneOf, schemas);
    if (discriminator !== undefined) schema.discriminator = discriminator;
  }
  for (const inner of Object.values(value)) completeSchemas(inner, schemas);
}

/** The first field whose constant differs between all options. */
function discriminatorOf(
  options: readonly OpenApiSchema[],
  schemas: OpenApiDocument['components']['schemas'],
): OpenApiSchema['discriminator'] {
  const [first] = options;
  for (const propertyName of Object.keys(schemas[nameOf(first?.$ref)]?.properties ?? {})) {
    const pairs = options.flatMap(({ $ref = '' }) => {
      const field = schemas[nameOf($ref)]?.properties?.[propertyName];
      const texts = field?.enum ?? [field?.const];
      return texts.map((text) => [text, $ref] as const);
    });
    const mapping = Object.fromEntries(pairs);
    const areTexts = pairs.every(([text]) => typeof text === 'string');
    if (areTexts && Object.keys(mapping).length === pairs.length) return { propertyName, mapping };
  }
  return undefined;
}

interface OpenApiDocument {
  readonly paths: Record<string, Record<string, OpenApiOperation>>;
  readonly components: { readonly schemas: Record<string, OpenApiSchema> };
}

interface OpenApiOperation {
  readonly responses: Record<string, { description: string }>;
  readonly requestBody?: { required?: boolean; readonly content: Record<string, { readonly schema: OpenApiSchema }> };
}

interface OpenApiSchema {
  readonly $ref?: string;
  readonly type?: string | readonly string[];
  readonly const?: unknown;
  readonly enum?: readonly unknown[];
  readonly properties?: Readonly<Record<string, OpenApiSchema>>;
  readonly required?: readonly string[];
  readonly oneOf?: readonly OpenApiSchema[];
  format?: string;
  discriminator?: { readonly propertyName: string; readonly mapping: Readonly<Record<string, string>> } | undefined;
}
