import { describe, expect, it } from 'vitest';
import { BridgeMetrics } from './bridge-metrics.ts';
import { TokenTimes } from './token-times.ts';
import type { UsageRecord } from './usage.ts';

const usage = (model: string, outcome: UsageRecord['outcome']): UsageRecord => ({
  sandboxId: 's',
  model,
  operation: 'chat',
  promptTokens: 1,
  completionTokens: 1,
  estimated: false,
  stream: true,
  status: 200,
  outcome,
  timings: { queueMs: 1, ttftMs: 1, totalMs: 1 },
});

const tokens = new TokenTimes(
  0,
  Array.from({ length: 16 }, (_, n) => n),
);

const modelsOf = (metrics: BridgeMetrics): string[] =>
  metrics
    .list()
    .filter(({ name }) => name === 'neurovisor_requests_total')
    .flatMap((metric) => metric.samples())
    .map(({ labels }) => labels['model'] ?? '');

describe('BridgeMetrics', () => {
  it('a model becomes a label only after an upstream has answered for it, so a guest can’t invent labels', () => {
    const metrics = new BridgeMetrics();
    for (let n = 0; n < 1000; n += 1) {
      metrics.countSent('openai', usage(`invented-${n}`, 'upstream-error'), tokens);
    }
    metrics.countSent('openai', usage('real', 'ok'), tokens);
    metrics.countSent('openai', usage('real', 'cancelled'), tokens);
    expect(modelsOf(metrics)).toEqual(['other', 'real', 'real']);
  });

  it('at most 16 models have series of their own, whatever upstreams answer for', () => {
    const metrics = new BridgeMetrics();
    for (let n = 0; n < 1000; n += 1) metrics.countSent('openai', usage(`m${n}`, 'ok'), tokens);
    expect(modelsOf(metrics)).toHaveLength(17);
  });
});
