import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { checkFraming, requestHeaders, responseHeaders } from './headers.ts';

const name = fc.oneof(
  fc.constantFrom('Host', 'content-length', 'Transfer-Encoding', 'authorization', 'accept'),
  fc.string(),
);
const rawHeaders = fc
  .array(fc.tuple(name, fc.oneof(fc.constantFrom('chunked', '5'), fc.string())), { maxLength: 12 })
  .map((pairs) => pairs.flat());

describe('checkFraming', () => {
  it('accepts a request only if there is at most one way to find the end of its body', () => {
    fc.assert(
      fc.property(rawHeaders, (headers) => {
        const result = checkFraming(headers);
        const framing = headers.filter((text, i) => i % 2 === 0 && /^(content-length|transfer-encoding)$/i.test(text));
        if (result.ok) expect(framing.length).toBeLessThanOrEqual(1);
      }),
    );
  });
});

describe('header filters', () => {
  it('pass only listed names with harmless values', () => {
    const allowed =
      /^(accept|traceparent|tracestate|(x-(client-)?)?request-id|idempotency-key|anthropic-(beta|version)|openai-(beta|processing-ms)|cache-control|content-(encoding|length|type)|retry-after(-ms)?|x-should-retry|x-ratelimit-[a-z-]+)$/;
    const received = fc.dictionary(
      fc.oneof(
        fc.constantFrom(
          'accept',
          'anthropic-beta',
          'anthropic-version',
          'cookie',
          'idempotency-key',
          'retry-after',
          'x-api-key',
          '__proto__',
        ),
        fc.string(),
      ),
      fc.oneof(fc.constant('y-2, x-1'), fc.string(), fc.array(fc.string())),
    );
    fc.assert(
      fc.property(received, (headers) => {
        const anthropic = requestHeaders(headers, 'a', { api: 'anthropic', betas: ['x-1'] });
        expect(anthropic['anthropic-beta'] ?? 'x-1').toBe('x-1');
        expect(anthropic['anthropic-version'] ?? '2023-06-01').toMatch(/^\d{4}-\d\d-\d\d$/);
        for (const out of [requestHeaders(headers, 'a'), anthropic, responseHeaders(headers)]) {
          for (const [key, value] of Object.entries(out)) {
            expect(key).toMatch(allowed);
            expect(value).not.toMatch(/[\r\n\0]/);
          }
        }
      }),
    );
  });
});
