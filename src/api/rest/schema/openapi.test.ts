/** Requirements of client generators beyond those of JSON Schema. */
import { describe, expect, it } from 'vitest';
import { openapiDocument } from '../../../../tools/openapi.ts';

type Json = { readonly [key: string]: unknown };
const document = (await openapiDocument()) as {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Json>>>>;
  readonly components: { readonly schemas: Readonly<Record<string, Json>> };
};
const { schemas } = document.components;
const parts: Json[] = [];
const collect = (part: unknown): void => {
  if (typeof part !== 'object' || part === null) return;
  parts.push(part as Json);
  for (const inner of Object.values(part)) collect(inner);
};
collect(document);

describe('OpenAPI document', () => {
  it('never combines closed objects by allOf, which no value could satisfy', () => {
    expect(parts.filter(({ allOf }) => allOf !== undefined)).toEqual([]);
  });

  it('names each object, so that generated types have a name', () => {
    const unnamed = Object.entries(schemas).flatMap(([name, schema]) => {
      const inner: Json[] = [];
      const look = (part: unknown): void => {
        if (typeof part !== 'object' || part === null) return;
        const { type, properties } = part as Json;
        if (type === 'object' && typeof properties === 'object') inner.push(part as Json);
        for (const value of Object.values(part)) look(value);
      };
      look(schema['properties'] ?? {});
      return inner.length > 0 ? [name] : [];
    });
    expect(unnamed).toEqual([]);
    const bodies = Object.values(document.paths).flatMap((path) => Object.values(path));
    const BYTES = ['writeFile', 'buildImage'];
    const inline = bodies.filter(({ requestBody, operationId }) => {
      const text = JSON.stringify(requestBody ?? {});
      return !BYTES.includes(String(operationId)) && text !== '{}' && !text.includes('$ref');
    });
    expect(inline).toEqual([]);
  });

  it('unions of events name their discriminator', () => {
    expect(schemas['SandboxEvent']).toMatchObject({
      discriminator: {
        propertyName: 'type',
        mapping: {
          near_oom: '#/components/schemas/NearOomEvent',
          disk_full: '#/components/schemas/DiskEvent',
          disk_error: '#/components/schemas/DiskEvent',
          end: '#/components/schemas/EndEvent',
        },
      },
    });
    expect(schemas['MemoryMark']).toMatchObject({ discriminator: { propertyName: 'type' } });
  });

  it('numbers are 64 bits wide', () => {
    const numbers = parts.filter(({ type }) => [type].flat().some((one) => one === 'number' || one === 'integer'));
    expect(numbers.length).toBeGreaterThan(100);
    expect(numbers.filter(({ format }) => format !== 'int64' && format !== 'double')).toEqual([]);
  });

  it('answers may grow, requests are closed', () => {
    expect(schemas['Sandbox']).not.toHaveProperty('additionalProperties');
    expect(schemas['Loads']).not.toHaveProperty('additionalProperties');
    expect(schemas['CreateRequest']).toMatchObject({ additionalProperties: false });
    expect(schemas['ExecScript']).toMatchObject({ additionalProperties: false });
  });

  it('whole numbers in requests have a range below 64 bits', () => {
    const inputs = Object.values(schemas).filter(({ additionalProperties }) => additionalProperties === false);
    const fields = inputs.flatMap(({ properties }) => Object.values(properties as object));
    const parameters = Object.values(document.paths)
      .flatMap((path) => Object.values(path))
      .flatMap(({ parameters: all = [] }) => all as readonly { readonly schema: Json }[]);
    const whole = [...fields, ...parameters.map(({ schema }) => schema)].filter(({ type }: Json) => type === 'integer');
    expect(whole.length).toBeGreaterThan(15);
    expect(whole.filter((schema: Json) => schema['maximum'] === undefined)).toEqual([]);
  });

  it('parameters have their types', () => {
    const operation = (path: string): Json => document.paths[path]?.['get'] ?? {};
    expect(operation('/v1/sandboxes')['parameters']).toMatchObject([
      { name: 'status', schema: { type: 'array', items: { $ref: '#/components/schemas/SandboxStatus' } } },
      { name: 'metadata', schema: { type: 'array', items: { type: 'string' } } },
      { name: 'name', schema: { type: 'string' } },
    ]);
    expect(operation('/v1/sandboxes/{id}/files/list')['parameters']).toContainEqual(
      expect.objectContaining({ name: 'depth', schema: { type: 'integer', minimum: 1, maximum: 32, format: 'int64' } }),
    );
  });
});
