/** Creates a span for each request that changes something or carries a trace. */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { parseTraceparent, type Span, type Tracer } from '../../base/trace/trace.ts';

/** Spans name route patterns, never requested paths. */
export function addTracing(app: FastifyInstance, tracer: Tracer): void {
  const spans = new WeakMap<FastifyRequest, Span>();
  app.addHook('onRequest', (request, _reply, done) => {
    const parent = parseTraceparent(request.headers['traceparent']);
    // Reads begin no trace: lists and metrics are polled all the time.
    if (parent === null && request.method === 'GET') return done();
    const { method, routeOptions } = request;
    const route = routeOptions.url ?? 'none';
    const attributes = { 'http.request.method': method, 'http.route': route };
    const span = tracer.start(`${method} ${route}`, { kind: 'server', parent, attributes });
    spans.set(request, span);
    tracer.run(span.context, done);
  });
  app.addHook('onResponse', async (request, { statusCode }) => {
    const span = spans.get(request);
    span?.set({ 'http.response.status_code': statusCode });
    span?.end(statusCode >= 500 ? `status ${statusCode}` : undefined);
  });
}
