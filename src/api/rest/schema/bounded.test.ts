/** Lists and records of requests are refused by their count, before any item is looked at. */
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, vi } from 'vitest';
import { z } from 'zod';
import { e2bOpenapiDocument, openapiDocument } from '../../../../tools/openapi.ts';
import { imageBuild } from '../../../sandbox/contract/schema/contents.ts';

const { requests } = vi.hoisted(() => ({ requests: new Map<string, unknown>() }));

vi.mock(import('fastify-type-provider-zod'), async (original) => {
  const real = await original();
  return {
    ...real,
    validatorCompiler: (route) => {
      requests.set(`${route.method} ${route.url} ${route.httpPart}`, route.schema);
      return real.validatorCompiler(route);
    },
  };
});
// Both have all routes of their interface.
await openapiDocument();
await e2bOpenapiDocument();
// The first line of its route's body.
requests.set('ImageBuild', imageBuild);

const MANY = 100_000;
const ITEMS = Array.from({ length: MANY }, () => '1');
const PAIRS = { ...ITEMS };
type Counted = z.core.$ZodArray | z.core.$ZodRecord;

const isCounted = (schema: z.core.$ZodType): schema is Counted =>
  schema instanceof z.core.$ZodArray || schema instanceof z.core.$ZodRecord;

function* within(value: unknown, seen = new Set<unknown>()): Generator<z.core.$ZodType> {
  if (typeof value !== 'object' || value === null || seen.has(value)) return;
  seen.add(value);
  if (value instanceof z.core.$ZodType) yield value;
  const parts = value instanceof z.core.$ZodType ? value._zod.def : value;
  for (const part of Object.values(parts)) yield* within(part, seen);
}

const all = [...requests].flatMap(([name, schema]) =>
  [...within(schema)].filter(isCounted).map((counted) => ({ name, counted })),
);

/** Whether the schema takes many items, and how many of them it looks at. */
function looksAt({ counted }: { readonly counted: Counted }): { readonly takes: boolean; readonly items: number } {
  let items = 0;
  const watched = new Proxy<object>(counted instanceof z.core.$ZodArray ? ITEMS : PAIRS, {
    get: (target, key, receiver) => {
      if (/^\d+$/.test(String(key))) items += 1;
      return Reflect.get(target, key, receiver);
    },
  });
  return { takes: z.safeParse(counted, watched).success, items };
}

it('the walk finds lists and records, and an unbounded one', () => {
  expect(all.length).toBeGreaterThan(40);
  const names = new Set(all.map(({ name }) => name));
  expect(names).toContain('POST /v1/sandboxes body');
  expect(names).toContain('GET /v1/sandboxes querystring');
  expect(names).toContain('POST /sandboxes body');
  expect(names).toContain('POST /v2/templates/:id/builds/:build body');
  for (const counted of [z.array(z.string()), z.record(z.string(), z.string())]) {
    expect(looksAt({ counted })).toEqual({ takes: true, items: MANY });
  }
});

it('each list and record of a request has a bound, and is counted before its items', () => {
  const unbounded = all.filter((one) => {
    const { takes, items } = looksAt(one);
    return takes || items > 0;
  });
  expect(unbounded.map(({ name }) => name)).toEqual([]);
});

it('each list and record of a request stops at its first wrong item', () => {
  const wrong = (): number => 0;
  const further = all.filter(({ counted }) => {
    const { error } = z.safeParse(
      counted,
      counted instanceof z.core.$ZodArray ? [wrong, wrong] : { 0: wrong, 1: wrong },
    );
    return error?.issues.some(({ path }) => String(path[0]) === '1') === true;
  });
  expect(further.map(({ name }) => name)).toEqual([]);
});

it('messages for envd have only such lists and records', () => {
  const folder = join(import.meta.dirname, '../../e2b/envd');
  const sources = globSync('*.ts', { cwd: folder }).map((name) => readFileSync(join(folder, name), 'utf8'));
  expect(sources.filter((source) => /\blist\(z\.string/.test(source))).toHaveLength(1);
  expect(sources.filter((source) => /\bz\.(?:array|record|map|set)\(/.test(source))).toEqual([]);
});
