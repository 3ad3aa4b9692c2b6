/** Any JSON body gets an answer of the API, never an internal error. */
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { errorBody } from '../../src/api/rest/schema/answers.ts';
import { type ApiFixture, type Method, startApi } from '../support/api-fixture.ts';

let api: ApiFixture;
beforeAll(async () => {
  api = await startApi();
});
afterAll(() => api[Symbol.asyncDispose]());

/** Fields of the API with values that are often valid, so that later checks are reached. */
const field = fc.oneof(
  fc.constantFrom('cpus', 'memoryMib', 'diskMib', 'timeoutMs', 'idleTimeoutMs', 'queueTimeoutMs'),
  fc.constantFrom('env', 'warm', 'models', 'channelLimits', 'diskLimits', 'metadata', 'snapshot', 'boot', 'console'),
  fc.constantFrom('onTimeout', 'autoResume', 'to', 'count', 'name', 'min', 'max', 'spec'),
  fc.constantFrom('__proto__', 'constructor', 'toString'),
  fc.string(),
);
const value = fc.oneof(
  fc.integer(),
  fc.integer({ min: 0, max: 4 }),
  fc.double(),
  fc.boolean(),
  fc.constant(null),
  fc.string({ unit: 'binary' }),
  fc.constantFrom('kill', 'pause', 'memory', 'disk', 'log', 'json', 'a.b'),
  fc.array(fc.string(), { maxLength: 3 }),
  fc.dictionary(fc.string(), fc.string(), { maxKeys: 3 }),
  fc.jsonValue(),
);
const body = fc.oneof(fc.dictionary(field, value, { maxKeys: 6 }), fc.jsonValue());

describe('REST bodies', () => {
  // `exec` only for an unknown sandbox, so that no generated program runs here.
  it.each<[Method, string]>([
    ['POST', '/sandboxes'],
    ['PATCH', '/sandboxes/ID'],
    ['POST', '/sandboxes/ID/pause'],
    ['POST', '/sandboxes/ID/fork'],
    ['POST', '/sandboxes/ID/snapshots'],
    ['PUT', '/pools'],
    ['POST', '/sandboxes/aaaaaaaaaaaaaaaaaaaa/exec'],
  ])('%s of any JSON is answered by 2xx or a typed 4xx', async (method, path) => {
    await fc.assert(
      fc.asyncProperty(body, async (given) => {
        const { id } = await api.control.create({});
        const { status, json } = await api.ask(method, path.replace('ID', id), JSON.stringify(given));
        expect(api.errors).toEqual([]);
        expect(status).toBeLessThan(500);
        if (status >= 400) errorBody.parse(json);
        else expect(status).toBeGreaterThanOrEqual(200);
        for (const sandbox of await api.control.list()) await api.control.remove(sandbox.id);
      }),
      { numRuns: 300 },
    );
  });
});
