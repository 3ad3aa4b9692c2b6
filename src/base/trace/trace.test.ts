import { describe, expect, it } from 'vitest';
import { FakeClock } from '../clock.ts';
import { formatTraceparent, parseTraceparent, type SpanRecord, Tracer, traceEnv } from './trace.ts';

const TRACE = 'a'.repeat(32);
const SPAN = 'b'.repeat(16);
const HEADER = `00-${TRACE}-${SPAN}-01`;

function recording() {
  const clock = new FakeClock();
  const spans: SpanRecord[] = [];
  let made = 0;
  const randomHex = (bytes: number): string => `${++made}`.padStart(bytes * 2, '0');
  const tracer = new Tracer({ clock, randomHex, record: (span) => spans.push(span) });
  return { clock, spans, tracer };
}

describe('parseTraceparent', () => {
  it('accepts version 00 exactly, and later versions with a suffix', () => {
    const context = { traceId: TRACE, spanId: SPAN, sampled: true };
    expect(parseTraceparent(HEADER)).toEqual(context);
    expect(parseTraceparent(`01-${TRACE}-${SPAN}-03-more`)).toEqual(context);
    expect(parseTraceparent(`00-${TRACE}-${SPAN}-00`)?.sampled).toBe(false);
    expect(formatTraceparent(context)).toBe(HEADER);
    expect(traceEnv(context)).toEqual({ TRACEPARENT: HEADER, NEUROVISOR_TRACE_ID: TRACE });
  });

  it.each([
    undefined,
    7,
    '',
    `ff-${TRACE}-${SPAN}-01`,
    `00-${'0'.repeat(32)}-${SPAN}-01`,
    `00-${TRACE}-${'0'.repeat(16)}-01`,
    `00-${TRACE.toUpperCase()}-${SPAN}-01`,
    `00-${TRACE}-${SPAN}-01-more`,
    `00-${TRACE}-${SPAN}-1`,
    `${HEADER}\n`,
  ])('refuses %j', (text) => {
    expect(parseTraceparent(text)).toBeNull();
  });
});

describe('Tracer', () => {
  it('span: is a child of the span that it began in, even if called later from another', async () => {
    const { tracer, spans, clock } = recording();
    let later: () => void = () => undefined;
    await tracer.span('outer', {}, async (outer) => {
      later = tracer.bind(() => tracer.start('later').end());
      outer.part('phase', 0, 5);
      clock.advance(10);
    });
    await tracer.span('another', {}, async () => later());
    const [phase, outer, child] = spans;
    expect(outer).toMatchObject({ name: 'outer', parentSpanId: '', error: null });
    expect((outer?.endMs ?? 0) - (outer?.startMs ?? 0)).toBeCloseTo(10);
    expect(outer?.startMs).toBe(clock.wall() - 10);
    for (const one of [phase, child]) {
      expect(one?.parentSpanId).toBe(outer?.context.spanId);
      expect(one?.context.traceId).toBe(outer?.context.traceId);
    }
  });

  it('span: fails with its work, and records the error', async () => {
    const { tracer, spans } = recording();
    const failing = tracer.span('x', {}, () => Promise.reject(new Error('broken')));
    await expect(failing).rejects.toThrow('broken');
    expect(spans[0]?.error).toBe('broken');
  });

  it('root: is the parent of spans outside any other, but not of detached ones', () => {
    const { clock, spans } = recording();
    const [root, record] = [parseTraceparent(HEADER), (span: SpanRecord) => spans.push(span)];
    const tracer = new Tracer({ clock, randomHex: (n) => '7'.repeat(2 * n), record, root });
    tracer.start('mine').end();
    tracer.run(null, () => tracer.start('no parent').end());
    tracer.start('explicit root', { parent: null }).end();
    expect(spans.map(({ parentSpanId }) => parentSpanId)).toEqual([SPAN, '', '']);
    expect(spans[0]?.context.traceId).toBe(TRACE);
  });

  it('fromMs: lets a span begin in the past', () => {
    const { tracer, spans, clock } = recording();
    const fromMs = clock.now();
    clock.advance(700);
    tracer.start('x', { fromMs }).end();
    expect((spans[0]?.endMs ?? 0) - (spans[0]?.startMs ?? 0)).toBeCloseTo(700);
  });

  it('forwards an unsampled or unrecorded trace unchanged', () => {
    const { tracer, spans } = recording();
    const parent = parseTraceparent(`00-${TRACE}-${SPAN}-00`);
    expect(tracer.start('x', { parent }).context).toEqual(parent);
    const off = new Tracer({ clock: new FakeClock(), randomHex: () => '', record: null });
    expect(off.start('x', { parent }).context).toEqual(parent);
    expect(off.start('x').context).toBeNull();
    expect(spans).toEqual([]);
  });

  it('parentOf: a guest can write only to traces that it was given', () => {
    const { tracer } = recording();
    const own = { traceId: TRACE, spanId: SPAN, sampled: true };
    tracer.note('one', own);
    const child = { ...own, spanId: 'c'.repeat(16) };
    expect(tracer.parentOf('one', formatTraceparent(child))).toEqual(child);
    const foreign = formatTraceparent({ ...own, traceId: 'd'.repeat(32) });
    expect(tracer.parentOf('one', foreign)).toEqual(own);
    expect(tracer.parentOf('two', formatTraceparent(own))).toBeNull();
    tracer.forget('one');
    expect(tracer.parentOf('one', formatTraceparent(own))).toBeNull();
  });

  it('note: keeps the newest 32 traces of a sandbox', () => {
    const { tracer } = recording();
    const at = (n: number) => ({ traceId: `${n}`.padStart(32, '1'), spanId: SPAN, sampled: true });
    for (let n = 0; n < 10_000; n += 1) tracer.note('one', at(n));
    const isKnown = (n: number): boolean => tracer.parentOf('one', formatTraceparent(at(n)))?.traceId === at(n).traceId;
    expect([isKnown(9999), isKnown(9968), isKnown(9967)]).toEqual([true, true, false]);
  });
});
