import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Cassette, cassetteText, parseCassette } from './cassette.ts';
import { describeNearest } from './difference.ts';
import { CassetteError } from './errors.ts';
import { normalRequest, requestKey, type TapedRequest } from './normal-form.ts';
import { StableAnswer } from './stable-answer.ts';

const json = fc.letrec<{ value: unknown }>((tie) => ({
  value: fc.oneof(
    { depthSize: 'small' },
    fc.jsonValue({ maxDepth: 1 }),
    fc.dictionary(
      fc.oneof(fc.constantFrom('id', 'tool_call_id', 'call_id', '__proto__', '1'), fc.string()),
      fc.oneof(fc.constantFrom('x', 'y', 'call-1'), tie('value')),
      { noNullPrototype: true },
    ),
    fc.array(tie('value'), { maxLength: 3 }),
  ),
})).value;
// Node's JSON has no -0.
const object = fc
  .dictionary(fc.string(), json, { noNullPrototype: true })
  .map((value) => JSON.parse(JSON.stringify(value)) as Record<string, unknown>);
const request: fc.Arbitrary<TapedRequest> = fc.record({
  dialect: fc.constantFrom('openai', 'anthropic'),
  operation: fc.constantFrom('chat', 'embeddings'),
  model: fc.option(fc.string()),
  stream: fc.boolean(),
  body: object,
});

function shuffled(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(shuffled);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .reverse()
      .map(([name, child]) => [name, shuffled(child)]),
  );
}

describe('the normal form', () => {
  it('is its own normal form', () => {
    fc.assert(
      fc.property(request, (one) => {
        const normal = normalRequest(one);
        expect(normalRequest(normal)).toEqual(normal);
      }),
    );
  });

  it('ignores the order of keys, and what does not matter', () => {
    fc.assert(
      fc.property(request, fc.string(), (one, user) => {
        const body = { user, metadata: { user }, ...(shuffled(one.body) as object) };
        const { user: _u, metadata: _m, ...rest } = one.body;
        expect(requestKey(normalRequest({ ...one, body: { ...body, user } }))).toBe(
          requestKey(normalRequest({ ...one, body: rest })),
        );
      }),
    );
  });

  it('ignores the ids of tool calls, but not their order', () => {
    const body = (a: string, b: string, first: string) => ({
      messages: [{ tool_calls: [{ id: a }, { id: b }] }, { tool_call_id: first }, { tool_call_id: b }],
    });
    const key = (a: string, b: string, first: string) =>
      requestKey(
        normalRequest({ dialect: 'openai', operation: 'chat', model: 'm', stream: false, body: body(a, b, first) }),
      );
    fc.assert(
      fc.property(fc.uniqueArray(fc.string(), { minLength: 2, maxLength: 2 }), ([a = '', b = '']) => {
        expect(key(a, b, a)).toBe(key('p', 'q', 'p'));
        expect(key(a, b, b)).not.toBe(key('p', 'q', 'p'));
      }),
    );
  });

  it('differs if anything else does, and the difference is described in one bounded line', () => {
    fc.assert(
      fc.property(request, request, (a, b) => {
        const [one, two] = [normalRequest(a), normalRequest(b)];
        const isSame = requestKey(one) === requestKey(two);
        expect(JSON.stringify(one) === JSON.stringify(two)).toBe(isSame);
        if (isSame) return;
        const text = describeNearest([one], two);
        expect(text).toContain('differs in ');
        expect(text.length).toBeLessThan(1_000);
      }),
    );
  });
});

const answer = fc.oneof(
  fc.record(
    {
      model: fc.string(),
      status: fc.integer({ min: 200, max: 599 }),
      events: fc.array(fc.oneof(object, fc.string())),
      cut: fc.constant(true as const),
    },
    { requiredKeys: ['model', 'status', 'events'], noNullPrototype: true },
  ),
  fc.record({ model: fc.string(), status: fc.integer({ min: 200, max: 599 }), body: fc.oneof(object, fc.string()) }),
);
const cassette: fc.Arbitrary<Cassette> = fc.record({
  defaultModel: fc.option(fc.string()),
  exchanges: fc.array(fc.record({ request: request.map(normalRequest), answer })),
});

describe('a cassette', () => {
  it('is read as it was written, and written as it was read', () => {
    fc.assert(
      fc.property(cassette, (one) => {
        const text = cassetteText(one);
        const read = parseCassette(Buffer.from(text));
        expect(cassetteText(read)).toBe(text);
      }),
    );
  });

  it('keeps a member named __proto__', () => {
    const body = '{"__proto__":{"a":1}}';
    const asked = { dialect: 'openai', operation: 'chat', model: null, stream: false };
    const request = { ...asked, body: JSON.parse(body) };
    const answer = { model: 'm', status: 200, body: JSON.parse(body) };
    const text = cassetteText({ defaultModel: null, exchanges: [{ request, answer }] });
    const [read] = parseCassette(Buffer.from(text)).exchanges;
    expect(JSON.stringify(read)).toBe(JSON.stringify({ request, answer }));
  });

  it('any other bytes are refused with a typed error', () => {
    fc.assert(
      fc.property(cassette, fc.nat(), fc.uint8Array({ maxLength: 3 }), (one, at, bytes) => {
        const text = Buffer.from(cassetteText(one));
        const place = at % text.length;
        const changed = Buffer.concat([text.subarray(0, place), bytes, text.subarray(place + bytes.length)]);
        try {
          parseCassette(changed);
        } catch (error) {
          expect(error).toBeInstanceOf(CassetteError);
        }
      }),
    );
  });
});

describe('StableAnswer', () => {
  it('accepts any JSON, and keeps everything but ids, times and padding', () => {
    fc.assert(
      fc.property(object, (value) => {
        const { id: _i, created: _c, obfuscation: _o, choices: _h, ...rest } = value;
        expect(new StableAnswer('0').rewrite(value)).toMatchObject(rest);
        const twice = new StableAnswer('0').rewrite(new StableAnswer('0').rewrite(value));
        expect(JSON.stringify(twice)).toBe(JSON.stringify(new StableAnswer('0').rewrite(value)));
      }),
    );
  });
});
