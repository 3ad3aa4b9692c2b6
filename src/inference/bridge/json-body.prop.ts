import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { openaiDialect } from './dialect/openai/openai.ts';
import { editJson, isJsonObject, type JsonObject, parseJsonBody } from './json-body.ts';
import { resolveModel } from './policy.ts';

const LIMITS = {
  jsonDepthMax: 20,
  jsonContainersMax: 1000,
  jsonValuesMax: 1000,
  jsonKeysMax: 1000,
  jsonMembersMax: 1000,
};
const object = fc.dictionary(fc.string({ unit: 'grapheme' }), fc.jsonValue());
const spaced = fc
  .tuple(object, fc.nat(3))
  .map(([value, space]) => ({ value, bytes: Buffer.from(JSON.stringify(value, null, space)) }));
const soup = fc
  .array(
    fc.oneof(
      fc.constantFrom('{', '}', '[', ']', ':', ',', '"', '\\', '\\"', '"a"', '"model":', '1', ' '),
      fc.string({ maxLength: 4 }),
    ),
    { maxLength: 60 },
  )
  .map((parts) => parts.join(''));

describe('parseJsonBody', () => {
  it('accepts what JSON.parse accepts', () => {
    fc.assert(
      fc.property(spaced, ({ value, bytes }) => {
        const parsed = parseJsonBody(bytes, LIMITS);
        if (parsed.ok) expect(parsed.value.value).toEqual(JSON.parse(JSON.stringify(value)));
        else expect(parsed.refusal.message).toMatch(/levels|values|lists|keys|members/);
      }),
    );
  });

  it('edits like an assignment, and changes nothing else', () => {
    const changes = fc.dictionary(fc.constantFrom('model', 'stream_options', 'a'), fc.jsonValue());
    const body = fc.tuple(object, fc.dictionary(fc.constantFrom('model', 'a'), fc.jsonValue()));
    fc.assert(
      fc.property(body, fc.nat(3), changes, ([rest, own], space, edits) => {
        const before = { ...rest, ...own };
        const bytes = Buffer.from(JSON.stringify(before, null, space));
        const parsed = parseJsonBody(bytes, LIMITS);
        if (!parsed.ok) return;
        const pieces = editJson(bytes, parsed.value.layout, edits);
        const after: unknown = JSON.parse(Buffer.concat(pieces).toString());
        expect(after).toEqual(JSON.parse(JSON.stringify({ ...before, ...edits })));
      }),
    );
  });

  it('never throws and accepts only what JSON.parse accepts', () => {
    fc.assert(
      fc.property(soup, (text) => {
        const parsed = parseJsonBody(Buffer.from(text), LIMITS);
        if (parsed.ok) expect(isJsonObject(JSON.parse(text))).toBe(true);
      }),
      { numRuns: 2000 },
    );
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        expect(typeof parseJsonBody(Buffer.from(bytes), LIMITS).ok).toBe('boolean');
      }),
    );
  });
});

describe('inspect', () => {
  const known = ['content', 'text', 'type', 'image_url', 'url', 'tool_calls', 'annotations'];
  const hostile = fc.letrec<{ value: unknown; body: JsonObject }>((tie) => ({
    value: fc.oneof(
      { maxDepth: 4 },
      fc.jsonValue({ maxDepth: 1 }),
      fc.constantFrom('http://169.254.169.254/', 'data:,x', true, null),
      fc.array(tie('value'), { maxLength: 4 }),
      tie('body'),
    ),
    body: fc.dictionary(
      fc.oneof({ weight: 30, arbitrary: fc.constantFrom(...known) }, { weight: 1, arbitrary: fc.string() }),
      tie('value'),
      { maxKeys: 3 },
    ) as fc.Arbitrary<JsonObject>,
  })).body;

  it('never throws, and passes no http URL under a media key', () => {
    const route = openaiDialect.route('POST', '/v1/chat/completions');
    if (!route.ok || route.value.kind !== 'inference') throw new Error('no route');
    const { operation } = route.value;
    let passed = 0;
    fc.assert(
      fc.property(hostile, (body) => {
        const result = openaiDialect.inspect(operation, { messages: [body] }, {});
        expect(openaiDialect.inspect(operation, body, {}).ok).toBeTypeOf('boolean');
        if (!result.ok) return;
        passed += 1;
        expect(mediaUrls(body)).toEqual([]);
      }),
      { numRuns: 1000 },
    );
    // Guards against refusing everything.
    expect(passed).toBeGreaterThan(50);
  });
});

/** A naive model: finds every remote string under the two keys by recursion. */
function mediaUrls(value: unknown, under = false): string[] {
  if (typeof value === 'string') return under && value.startsWith('http:') ? [value] : [];
  if (Array.isArray(value)) return value.flatMap((child) => mediaUrls(child, under));
  if (!isJsonObject(value)) return [];
  return Object.entries(value).flatMap(([key, child]) =>
    key === 'annotations' ? [] : mediaUrls(child, key === 'image_url' || key === 'url'),
  );
}

describe('resolveModel', () => {
  it('never resolves to a model that the host did not allow', () => {
    const name = fc.oneof(fc.constantFrom('a', 'b', 'gpt-4o', '*', '__proto__'), fc.string());
    const policy = fc.record({
      allowModels: fc.array(name, { maxLength: 3 }),
      aliases: fc.dictionary(name, name, { maxKeys: 3 }),
    });
    fc.assert(
      fc.property(name, policy, fc.array(name), (asked, rules, listed) => {
        const result = resolveModel(asked, rules, listed);
        const granted = [...rules.allowModels, ...Object.values(rules.aliases)];
        if (result.ok) expect(granted).toContain(result.value);
      }),
    );
  });
});
