import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { SandboxInfo } from '../../sandbox/contract/control.ts';
import { NO_MODEL_POLICY } from '../../sandbox/contract/model-policy.ts';
import { sandboxInfo } from '../../sandbox/contract/schema/sandbox.ts';
import * as answers from './answers.ts';
import { type AnswerSchema, conform, MISMATCH } from './json-schema.ts';

const SANDBOX: SandboxInfo = {
  id: 'a'.repeat(20),
  name: null,
  status: 'ended',
  pausedTo: null,
  pauseReason: null,
  foreignPause: null,
  cpus: 1,
  memoryMib: 512,
  memoryMaxMib: null,
  diskMib: 2048,
  image: null,
  annotations: {},
  metadata: { user: '42' },
  origin: 'clone',
  snapshot: null,
  template: null,
  parent: null,
  accelerator: 'tcg',
  sharesMemory: null,
  createdAtMs: 1,
  endsAtMs: null,
  onTimeout: 'kill',
  idleTimeoutMs: null,
  autoResume: true,
  onMemoryPressure: 'warn',
  diskLimits: { opsPerSecond: 100 },
  models: { ...NO_MODEL_POLICY, priority: 'batch', budget: { outputTokens: 10, windowMs: 1000 } },
  modelUse: {
    account: 'b'.repeat(20),
    used: { inputTokens: 1, outputTokens: 2, requests: 3, costNanoDollars: 5, window: 4 },
  },
  packages: null,
  network: {
    mode: 'allowlist',
    allow: ['a.example'],
    deny: [],
    limits: { bytesMax: 7, destinations: [{ name: 'a.example', bytesMax: 5 }] },
    address: null,
    gatewayUse: { allowed: 1, refused: { name: 2 }, destinations: [] },
  },
  volumes: [],
  secrets: [{ name: 'KEY', hosts: ['a.example'], places: [], held: false }],
  timings: { origin: 'clone', prepareMs: 1, vmmMs: 1, kernelMs: 0, agentMs: 1, totalMs: 3 },
  readyMs: 3.5,
  end: {
    cause: 'host-oom',
    detail: '',
    atMs: 2,
    evidence: {
      exitStatus: null,
      signal: 'SIGKILL',
      lastPressure: { type: 'near_oom', source: 'guest', memoryBytes: 1, limitBytes: 2, atMs: 1 },
      lastOom: { source: 'host', victim: null, detail: 'x', atMs: 1 },
      lastViolation: null,
    },
  },
};

function* mutations(value: unknown): Generator<unknown> {
  if (typeof value !== 'object' || value === null) return;
  for (const [key, field] of Object.entries(value)) {
    const { [key]: _removed, ...rest } = value as Record<string, unknown>;
    if (Array.isArray(value)) {
      for (const changed of mutations(field)) yield value.with(Number(key), changed);
      continue;
    }
    yield rest;
    for (const other of [null, 'text', -1, 1.5, true, [], {}, ['x']]) {
      yield { ...value, [key]: other };
    }
    for (const changed of mutations(field)) yield { ...value, [key]: changed };
  }
}

describe('answers', () => {
  it('accept and reject the same as the server’s schemas', () => {
    let accepted = 0;
    let rejected = 0;
    for (const value of [SANDBOX, ...mutations(SANDBOX)]) {
      const expected = sandboxInfo.safeParse(value);
      const read = answers.sandboxInfo.read(value);
      expect(read?.value, JSON.stringify(value)).toEqual(expected.data);
      if (read === null) rejected += 1;
      else accepted += 1;
    }
    expect(accepted).toBeGreaterThan(50);
    expect(rejected).toBeGreaterThan(300);
  });

  it('drop fields that the document does not name', () => {
    const { network } = SANDBOX;
    const grown = {
      ...SANDBOX,
      more: 1,
      network: { ...network, limits: { ...network?.limits, more: 1 } },
      diskLimits: { ...SANDBOX.diskLimits, more: 1 },
    };
    expect(answers.sandboxInfo.read(grown)).toEqual({ value: SANDBOX });
    expect(answers.health.read({ status: 'ok', more: 1 })).toEqual({ value: { status: 'ok' } });
    expect(answers.health.read({ status: 'no' })).toBeNull();
  });
});

describe('conform', () => {
  const KNOWN = new Set<string>([
    '$ref',
    'type',
    'const',
    'enum',
    'minimum',
    'maximum',
    'pattern',
    'minLength',
    'maxLength',
    'items',
    'maxItems',
    'properties',
    'required',
    'additionalProperties',
    'propertyNames',
    'anyOf',
    'oneOf',
    'description',
    'examples',
    // Only for generators.
    'format',
    'discriminator',
  ]);
  const keywordsOf = (schema: AnswerSchema): string[] => [
    ...Object.keys(schema),
    ...[schema.items, schema.propertyNames, schema.additionalProperties, ...(schema.anyOf ?? [])]
      .concat(schema.oneOf ?? [], Object.values(schema.properties ?? {}))
      .flatMap((inner) => (typeof inner === 'object' ? keywordsOf(inner) : [])),
  ];

  it('knows every keyword in the schemas of answers', () => {
    const { paths, components } = JSON.parse(
      readFileSync(new URL('../../../spec/openapi.json', import.meta.url), 'utf8'),
    ) as {
      paths: Record<string, Record<string, { responses: object }>>;
      components: { schemas: Record<string, AnswerSchema> };
    };
    const found = new Set<string>();
    const collect = (part: unknown): void => {
      for (const [, name = ''] of JSON.stringify(part).matchAll(/#\/components\/schemas\/(\w+)/g)) {
        if (found.has(name)) continue;
        found.add(name);
        collect(components.schemas[name]);
      }
    };
    const operations = Object.values(paths).flatMap((path) => Object.values(path));
    collect(operations.map(({ responses }) => responses));
    expect([...found]).toEqual(expect.arrayContaining(['Sandbox', 'SandboxEvent', 'End']));
    const keywords = [...found].flatMap((name) => keywordsOf(components.schemas[name] ?? {}));
    expect(keywords.filter((keyword) => !KNOWN.has(keyword))).toEqual([]);
  });

  it.each<[AnswerSchema, unknown, unknown]>([
    [{ type: 'integer', minimum: 0 }, 1, 1],
    [{ type: 'integer', minimum: 0 }, -1, MISMATCH],
    [{ type: 'integer' }, 1.5, MISMATCH],
    [{ type: 'number', maximum: 2 }, 3, MISMATCH],
    [{ type: 'string', pattern: '^a$' }, 'b', MISMATCH],
    [{ type: 'string', minLength: 1 }, '', MISMATCH],
    [{ type: 'array', maxItems: 1 }, [1, 2], MISMATCH],
    [{ type: 'object', additionalProperties: { type: 'number' } }, { a: 1 }, { a: 1 }],
    [{ type: 'object', additionalProperties: { type: 'number' } }, { a: 'x' }, MISMATCH],
    [{ type: 'object', additionalProperties: false }, { a: 1 }, {}],
    [{ type: 'object' }, [], MISMATCH],
    [{ $ref: '#/components/schemas/none' }, 1, MISMATCH],
  ])('%j with %j: %o', (schema, value, expected) => {
    expect(conform(schema, value, {})).toEqual(expected);
  });
});
