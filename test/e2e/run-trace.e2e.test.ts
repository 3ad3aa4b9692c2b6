/** `neurovisor run` without a daemon is one trace, from the command to the first token. */
import { expect, it } from 'vitest';
import { cli } from '../support/cli.ts';
import { delta, done, finish, startEvents, startMockUpstream } from '../support/mock-upstream.ts';
import { type CollectedSpan, startCollector } from '../support/otlp-collector.ts';

const TRACE = '0af7651916cd43dd8448eb211c80319c';
const CALLER = 'b7ad6b7169203331';

const SCRIPT = `
import json, os, urllib.request
body = json.dumps({'model': 'm1', 'stream': True, 'messages': [{'role': 'user', 'content': 'hi'}]})
request = urllib.request.Request(
    'http://127.0.0.1:11434/v1/chat/completions', body.encode(), {'content-type': 'application/json'}
)
urllib.request.urlopen(request).read()
print(os.environ['NEUROVISOR_TRACE_ID'], os.environ['TRACEPARENT'])
`;

it('run: one trace has command, set-up, VM phases, script, model request and first token', async () => {
  await using collector = await startCollector();
  const upstream = await startMockUpstream();
  try {
    upstream.answer((_, response) => {
      startEvents(response);
      response.end(delta('one') + finish + done);
    });
    const env = {
      NEUROVISOR_UPSTREAM: upstream.target.baseUrl ?? '',
      OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
      TRACEPARENT: `00-${TRACE}-${CALLER}-01`,
    };
    const { status, stdout, stderr } = await cli(['run', '--no-daemon', '-c', SCRIPT], { env }).result;
    expect([status, stderr]).toEqual([0, '']);

    const { spans } = collector;
    const named = (name: string): CollectedSpan => {
      const found = spans.find((span) => span.name === name);
      expect(found, `${name} in ${spans.map((span) => span.name).join(', ')}`).toBeDefined();
      return found as CollectedSpan;
    };
    const path = (span: CollectedSpan): readonly string[] => {
      if (span.parentSpanId === CALLER) return [span.name];
      const parent = spans.find(({ spanId }) => spanId === span.parentSpanId);
      expect(parent, `the parent of ${span.name}`).toBeDefined();
      return [...path(parent as CollectedSpan), span.name];
    };
    expect(new Set(spans.map(({ traceId }) => traceId))).toEqual(new Set([TRACE]));
    for (const span of spans) expect(path(span)[0]).toBe('run');
    expect(path(named('set-up'))).toEqual(['run', 'set-up']);
    expect(path(named('vmm'))).toEqual(['run', 'create', 'VM start', 'vmm']);
    expect(path(named('first token'))).toEqual(['run', 'python', 'chat m1', 'first token']);
    expect(stdout).toBe(`${TRACE} 00-${TRACE}-${named('python').spanId}-01\n`);
    const asked = upstream.requests.at(-1)?.headers ?? {};
    expect(asked['traceparent']).toBe(`00-${TRACE}-${named('chat m1').spanId}-01`);
    expect(asked['x-trace-id']).toBe(TRACE);
  } finally {
    await upstream.close();
  }
});
