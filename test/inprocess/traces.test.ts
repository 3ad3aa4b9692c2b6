/** One trace from a request to the first token, as a collector receives it. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FakeClock, systemClock } from '../../src/base/clock.ts';
import { readConfig } from '../../src/base/config.ts';
import { silentLog } from '../../src/base/log.ts';
import { TRACE_LIMITS, TraceExporter } from '../../src/base/trace/exporter.ts';
import { type SpanRecord, Tracer } from '../../src/base/trace/trace.ts';
import { openTracing } from '../../src/host/runtime/tracing.ts';
import { call } from '../support/bridge-fixture.ts';
import { FakeHost } from '../support/fake-host.ts';
import { METRICS_KEY, openMetricsWorld } from '../support/metrics-world.ts';
import { delta, done, finish, startEvents } from '../support/mock-upstream.ts';
import { type CollectedSpan, type Collector, startCollector } from '../support/otlp-collector.ts';

const TRACE = '0af7651916cd43dd8448eb211c80319c';
const CALLER = 'b7ad6b7169203331';
const HEADER = `00-${TRACE}-${CALLER}-01`;

let collector: Collector;
beforeAll(async () => {
  collector = await startCollector();
});
afterAll(() => collector[Symbol.asyncDispose]());

describe('a trace', () => {
  it('API, admission, VM and its phases, exec, model request, first token: one id, one tree', async () => {
    const config = readConfig({ NEUROVISOR_OTLP_ENDPOINT: collector.url });
    const tracing = openTracing(config, silentLog);
    await using world = await openMetricsWorld({ tracer: tracing.tracer });
    const { server, host, upstream } = world;
    const ask = async (url: string, payload: object): Promise<{ id: string }> => {
      const headers = { host: 'localhost', 'x-api-key': METRICS_KEY, traceparent: HEADER };
      const { statusCode, body } = await server.app.inject({ method: 'POST', url, headers, payload });
      expect([statusCode, body]).toEqual([expect.any(Number), expect.stringContaining('{')]);
      return JSON.parse(body) as { id: string };
    };
    const { id } = await ask('/v1/sandboxes', { boot: true });
    const guest = await host.guest(id);
    await ask(`/v1/sandboxes/${id}/exec`, { code: 'print(1)' });
    const env = guest.started.at(-1)?.env ?? {};
    expect(env['NEUROVISOR_TRACE_ID']).toBe(TRACE);

    upstream.answer((_, response) => {
      startEvents(response);
      response.end(delta('one') + finish + done);
    });
    const socketPath = await world.guestSocket(id);
    const body = { model: 'm1', stream: true, messages: [{ role: 'user', content: 'hi' }] };
    // A program without trace headers.
    await call(socketPath, '/v1/chat/completions', body);
    const sent = upstream.requests.at(-1)?.headers ?? {};
    expect([sent['traceparent'], sent['x-trace-id']]).toEqual([
      expect.stringMatching(`^00-${TRACE}-[0-9a-f]{16}-01$`),
      TRACE,
    ]);
    // A program that forwards its trace, and one that claims a foreign trace.
    await call(socketPath, '/v1/chat/completions', body, { traceparent: env['TRACEPARENT'] ?? '' });
    const foreign = `00-${'e'.repeat(32)}-${CALLER}-01`;
    await call(socketPath, '/v1/chat/completions', body, { traceparent: foreign });
    expect(upstream.requests.at(-1)?.headers['traceparent']).toContain(TRACE);
    await tracing.close();

    const { spans } = collector;
    expect(new Set(spans.map(({ traceId }) => traceId))).toEqual(new Set([TRACE]));
    expect(new Set(spans.map(({ spanId }) => spanId)).size).toBe(spans.length);
    const named = (name: string): CollectedSpan => {
      const found = spans.find((span) => span.name === name);
      expect(found, name).toBeDefined();
      return found as CollectedSpan;
    };
    const path = (span: CollectedSpan): readonly string[] => {
      if (span.parentSpanId === CALLER) return [span.name];
      const parent = spans.find(({ spanId }) => spanId === span.parentSpanId);
      expect(parent, `the parent of ${span.name}`).toBeDefined();
      return [...path(parent as CollectedSpan), span.name];
    };
    const create = ['POST /v1/sandboxes', 'create'];
    const exec = ['POST /v1/sandboxes/:id/exec', 'python'];
    expect(path(named('admission'))).toEqual([...create, 'admission']);
    expect(path(named('VM start'))).toEqual([...create, 'VM start']);
    expect(path(named('python'))).toEqual(exec);
    expect(path(named('chat m1'))).toEqual([...exec, 'chat m1']);
    expect(path(named('first token'))).toEqual([...exec, 'chat m1', 'first token']);
    expect(env['TRACEPARENT']).toBe(`00-${TRACE}-${named('python').spanId}-01`);
    expect(spans.filter(({ name }) => name === 'chat m1')).toHaveLength(3);
    expect(named('chat m1')).toMatchObject({
      kind: 'SPAN_KIND_CLIENT',
      attributes: { 'gen_ai.request.model': 'm1', 'neurovisor.sandbox.id': id },
    });
    for (const { startNs, endNs } of spans) {
      expect(endNs).toBeGreaterThanOrEqual(startNs);
      expect(Math.abs(Number(startNs / 1_000_000n) - systemClock.wall())).toBeLessThan(600_000);
    }
  });
});

describe('a pool', () => {
  it('a claim is a `bind`; the start of the next member belongs to no trace of a request', async () => {
    const spans: SpanRecord[] = [];
    let made = 0;
    const tracer = new Tracer({
      clock: systemClock,
      randomHex: (bytes) => `${++made}`.padStart(bytes * 2, '0'),
      record: (one) => spans.push(one),
    });
    await using host = await FakeHost.open({ tracer });
    await host.control.setPool({ min: 1, max: 1 });
    await expect.poll(async () => (await host.control.pools())[0]?.ready).toBe(1);
    await host.passTime(host.control.create({}));
    await host.passTime(expect.poll(async () => (await host.control.pools())[0]?.ready).toBe(1) as Promise<unknown>);
    const names = (of: string) => spans.filter(({ context }) => context.traceId === of);
    const create = spans.find(({ name }) => name === 'create');
    expect(names(create?.context.traceId ?? '').map(({ name }) => name)).toEqual(['bind', 'create']);
    expect(spans.filter(({ name }) => name === 'VM start')).toHaveLength(2);
  });
});

describe('admission', () => {
  it('a queued request keeps its own trace, whichever request makes room for it', async () => {
    const spans: SpanRecord[] = [];
    let made = 0;
    const tracer = new Tracer({
      clock: systemClock,
      randomHex: (bytes) => `${++made}`.padStart(bytes * 2, '0'),
      record: (one) => spans.push(one),
    });
    await using host = await FakeHost.open({ concurrency: 1, tracer });
    const first = host.script.hold('start');
    const traces = ['first', 'second'].map((name) =>
      tracer.span(name, {}, async ({ context }) => {
        await host.control.create({ boot: true });
        return context?.traceId;
      }),
    );
    await first.reached;
    first.release();
    const [one, two] = await Promise.all(traces);
    for (const name of ['admission', 'VM start']) {
      const found = spans.filter((span) => span.name === name);
      expect(found.map(({ context }) => context.traceId)).toEqual([one, two]);
    }
  });
});

const span = (n: number): SpanRecord => ({
  name: `span ${n}`,
  kind: 'internal',
  parentSpanId: '',
  startMs: 1,
  endMs: 2,
  error: 'no',
  context: { traceId: TRACE, spanId: CALLER, sampled: true },
  attributes: { text: 'a', count: 3, share: 0.5, is: true, none: null },
});

function exporter(clock: FakeClock, url = `${collector.url}/v1/traces`): TraceExporter {
  const headers = { authorization: 'Bearer x' };
  return new TraceExporter({ url, headers, resource: {}, clock, log: silentLog });
}

const counts = (of: TraceExporter): Record<string, number> =>
  Object.fromEntries(of.metrics().flatMap((m) => m.samples().map(({ labels, value }) => [labels['result'], value])));

describe('TraceExporter', () => {
  it('sends every kind of attribute, the status and the headers', async () => {
    const before = collector.spans.length;
    const one = exporter(new FakeClock());
    one.record(span(1));
    await one.close();
    expect(collector.spans.slice(before)).toMatchObject([
      { name: 'span 1', status: 'STATUS_CODE_ERROR', attributes: { text: 'a', count: '3', share: 0.5, is: true } },
    ]);
    expect(collector.headers.at(-1)).toMatchObject({ authorization: 'Bearer x' });
  });

  it('10 000 spans at once: excess spans are dropped and counted, and no caller waits', async () => {
    const one = exporter(new FakeClock());
    for (let n = 0; n < 10_000; n += 1) one.record(span(n));
    await one.close();
    const { exported = 0, dropped = 0, failed } = counts(one);
    expect(exported + dropped).toBe(10_000);
    expect(exported).toBeLessThanOrEqual(TRACE_LIMITS.queueMax + TRACE_LIMITS.batchMax);
    expect(failed).toBe(0);
    one.record(span(0));
    expect(counts(one)['dropped']).toBe(dropped + 1);
  });

  it('close: queued spans that cannot be sent are counted as dropped', async () => {
    const one = exporter(new FakeClock(), 'http://127.0.0.1:1/v1/traces');
    for (let n = 0; n < 1000; n += 1) one.record(span(n));
    await one.close();
    const { exported, dropped = 0, failed = 0 } = counts(one);
    expect([exported, dropped + failed]).toEqual([0, 1000]);
  });

  it('counts a batch as failed if the collector refuses it or is unreachable', async () => {
    collector.status = 503;
    const refused = exporter(new FakeClock());
    refused.record(span(1));
    await refused.close();
    collector.status = 200;
    expect(counts(refused)).toEqual({ exported: 0, dropped: 0, failed: 1 });
    const nowhere = exporter(new FakeClock(), 'http://127.0.0.1:1/v1/traces');
    nowhere.record(span(1));
    await nowhere.close();
    expect(counts(nowhere)['failed']).toBe(1);
  });
});

describe('readConfig: traces', () => {
  it('prefers NEUROVISOR_OTLP_ENDPOINT over OpenTelemetry’s variable; decodes headers', () => {
    const traces = (env: Record<string, string>) => readConfig(env).traces;
    expect(traces({})).toBeNull();
    const own = { NEUROVISOR_OTLP_ENDPOINT: 'http://a:1/' };
    expect(traces({ ...own, OTEL_EXPORTER_OTLP_ENDPOINT: 'http://b' })?.url).toBe('http://a:1/v1/traces');
    const others = { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://b', OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: 'http://c/x' };
    expect(traces({ OTEL_EXPORTER_OTLP_ENDPOINT: 'http://b' })?.url).toBe('http://b/v1/traces');
    expect(traces(others)?.url).toBe('http://c/x');
    const headers = (text: string) => traces({ ...others, OTEL_EXPORTER_OTLP_HEADERS: text })?.headers;
    expect(headers('a=b%20c, d = e')).toEqual({ a: 'b c', d: 'e' });
    for (const wrong of ['a', 'a=%0d%0a', 'a b=c', 'a=%']) {
      expect(() => headers(wrong), wrong).toThrow('OTEL_EXPORTER_OTLP_HEADERS');
    }
    expect(() => traces({ NEUROVISOR_OTLP_ENDPOINT: 'b:4317' })).toThrow('NEUROVISOR_OTLP_ENDPOINT');
  });
});
