/** Spans of a program in a guest, sent over its channel to the host's collector. */
import { request } from 'node:http';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readConfig } from '../../src/base/config.ts';
import { silentLog } from '../../src/base/log.ts';
import { MIB } from '../../src/base/units.ts';
import { openTracing } from '../../src/host/runtime/tracing.ts';
import { type MetricsWorld, openMetricsWorld } from '../support/metrics-world.ts';
import { type Collector, encode, rejectedOf, startCollector } from '../support/otlp-collector.ts';

const OWN = '0af7651916cd43dd8448eb211c80319c';
const OTHER = 'f'.repeat(32);
const PARENT = 'b7ad6b7169203331';

let collector: Collector;
let tracing: ReturnType<typeof openTracing>;
let world: MetricsWorld;
let socketPath: string;

beforeAll(async () => {
  collector = await startCollector();
  tracing = openTracing(readConfig({ NEUROVISOR_OTLP_ENDPOINT: collector.url }), silentLog);
  const { tracer, guests } = tracing;
  if (guests === null) throw new Error('guests are not traced');
  world = await openMetricsWorld({ tracer, takeTraces: (id, body) => guests.take(id, body) });
  socketPath = await world.guestSocket('one');
  tracer.note('one', { traceId: OWN, spanId: PARENT, sampled: true });
  tracer.note('two', { traceId: OTHER, spanId: PARENT, sampled: true });
});
afterAll(async () => {
  await world[Symbol.asyncDispose]();
  await tracing.close();
  await collector[Symbol.asyncDispose]();
});

const spanOf = (traceId: string, more: object = {}): object => ({
  traceId,
  spanId: '00f067aa0ba902b7',
  parentSpanId: PARENT,
  name: 'step',
  kind: 3,
  startTimeUnixNano: '1800000000000000000',
  endTimeUnixNano: '1800000000500000000',
  ...more,
});

const bodyOf = (spans: readonly object[]): Buffer =>
  encode({
    resourceSpans: [
      {
        resource: { attributes: [{ key: 'service.name', value: { stringValue: 'pretends' } }] },
        scopeSpans: [{ spans }],
      },
    ],
  });

function post(body: Buffer, type = 'application/x-protobuf'): Promise<{ status: number; body: Buffer }> {
  const { promise, resolve, reject } = Promise.withResolvers<{ status: number; body: Buffer }>();
  const asked = request({ socketPath, method: 'POST', path: '/otlp/v1/traces' });
  asked.setHeader('content-type', type);
  asked.on('error', reject);
  asked.on('response', (answer) => {
    const parts: Buffer[] = [];
    answer.on('data', (part: Buffer) => parts.push(part));
    answer.on('end', () => resolve({ status: answer.statusCode ?? 0, body: Buffer.concat(parts) }));
  });
  asked.end(body);
  return promise;
}

describe('POST /otlp/v1/traces of a guest', () => {
  it('its own trace is accepted and attributed to its sandbox, whatever the guest claims', async () => {
    const attributes = [
      { key: 'n', value: { intValue: '-7' } },
      { key: 'd', value: { doubleValue: 0.5 } },
      { key: 'b', value: { boolValue: true } },
      { key: 'text', value: { stringValue: `a\n${'x'.repeat(1000)}` } },
      { key: 'list', value: { arrayValue: { values: [] } } },
      { key: 'neurovisor.sandbox.id', value: { stringValue: 'two' } },
    ];
    const status = { code: 2, message: 'broken' };
    const answer = await post(bodyOf([spanOf(OWN, { attributes, status })]));
    expect([answer.status, rejectedOf(answer.body)]).toEqual([200, 0]);
    const foreign = await post(bodyOf([spanOf(OTHER), spanOf(OWN), spanOf('1'.repeat(32))]));
    expect([foreign.status, rejectedOf(foreign.body)]).toEqual([200, 2]);
    await expect.poll(() => collector.spans.length).toBe(2);
    expect(collector.spans[0]).toMatchObject({
      traceId: OWN,
      parentSpanId: PARENT,
      name: 'step',
      kind: 'SPAN_KIND_CLIENT',
      startNs: 1_800_000_000_000_000_000n,
      endNs: 1_800_000_000_500_000_000n,
      status: 'STATUS_CODE_ERROR',
    });
    expect(collector.spans[0]?.attributes).toEqual({
      n: '-7',
      d: 0.5,
      b: true,
      text: `a ${'x'.repeat(254)}`,
      'neurovisor.sandbox.id': 'one',
      'neurovisor.from': 'guest',
    });
  });

  it('10 000 spans: those above its share are rejected and counted', async () => {
    let rejected = 0;
    for (let n = 0; n < 20; n += 1) {
      const answer = await post(bodyOf(Array.from({ length: 500 }, () => spanOf(OWN))));
      expect([200, 429]).toContain(answer.status);
      rejected += answer.status === 200 ? rejectedOf(answer.body) : 500;
    }
    // The initial budget, plus the refill meanwhile.
    expect(rejected).toBeLessThan(9010);
    expect(rejected).toBeGreaterThan(5000);
  });

  it('invalid bytes, another type, too many bytes: refused with a message', async () => {
    // After the flood above, traces may be refused for a moment.
    const invalid = Buffer.from('{"resourceSpans":[]}');
    await expect.poll(async () => (await post(invalid)).status).toBe(400);
    expect((await post(Buffer.from('{}'), 'application/json')).status).toBe(415);
    expect((await post(Buffer.alloc(MIB + 1))).status).toBe(413);
  });
});
