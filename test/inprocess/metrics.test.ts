/** `/metrics` of a host where only the VMs are fake: names, labels, bounds, the dashboard, the docs. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { ignore } from '../../src/base/ignore.ts';
import type { Metric } from '../../src/base/metrics.ts';
import { ROOT } from '../support/cli.ts';
import { eventually } from '../support/eventually.ts';
import { type ExposedFamily, parseExposition } from '../support/exposition.ts';
import { type MetricsWorld, openMetricsWorld } from '../support/metrics-world.ts';
import { delta, done, finish, sendJson, startEvents, usageEvent } from '../support/mock-upstream.ts';
import { expressions, namesIn } from '../support/promql.ts';

let world: MetricsWorld;

/** Activity of every kind, so that each metric has a sample. */
async function live(): Promise<void> {
  const { host, upstream } = world;
  await host.control.setPool({ min: 1, max: 1 });
  await eventually(async () => expect((await host.control.pools())[0]?.ready).toBe(1));
  const ids: string[] = [];
  for (const boot of [false, true, false]) {
    const { statusCode, body } = await world.server.app.inject({
      ...{ method: 'POST', url: '/v1/sandboxes', payload: boot ? { boot, memoryMaxMib: 1024 } : {} },
      headers: { host: 'localhost', 'x-api-key': 'key-of-this-test' },
    });
    expect(statusCode).toBe(201);
    ids.push((JSON.parse(body) as { id: string }).id);
  }
  host.carry(ids[1] ?? '');
  await host.control.update(ids[1] ?? '', { memoryMib: 1024 });
  await host.control.remove(ids[0] ?? '');
  upstream.answer((_, response) => {
    startEvents(response);
    for (const text of ['one', ' two', ' three']) response.write(delta(text));
    response.end(finish + usageEvent + done);
  });
  await world.infer({ model: 'm1', stream: true, messages: [{ role: 'user', content: 'hi' }] });
  await world.infer({ model: 'unknown', messages: [] });
  ignore(new Error('harmless'), 'a sample for the metric');
  world.metrics.watchLease({
    traffic: async () => ({
      packetsOut: 1,
      bytesOut: 2,
      packetsIn: 3,
      bytesIn: 4,
      bytesUsed: 6,
      refused: { metadata: 5 },
    }),
  });
}

beforeAll(async () => {
  world = await openMetricsWorld();
  await live();
});
afterAll(async () => {
  await world[Symbol.asyncDispose]();
});

async function families(): Promise<readonly ExposedFamily[]> {
  return parseExposition((await world.scrape()).text);
}

async function counted(name: string, labels: Record<string, string> = {}): Promise<number> {
  const samples = (await families()).flatMap((family) => family.samples);
  const found = samples.filter(
    (one) => one.name === name && Object.entries(labels).every(([key, value]) => one.labels[key] === value),
  );
  return found.reduce((sum, { value }) => sum + value, 0);
}

describe('GET /metrics', () => {
  it('Prometheus’ type and format; needs the key as a bearer token', async () => {
    const { status, type, text } = await world.scrape();
    expect([status, type]).toEqual([200, 'text/plain; version=0.0.4; charset=utf-8']);
    expect(parseExposition(text).length).toBeGreaterThan(30);
    expect((await world.scrape({})).status).toBe(401);
    expect((await world.scrape({ authorization: 'Bearer wrong' })).status).toBe(401);
  });

  it('openMetrics: serves every user of this machine, but no web page', async () => {
    await using open = await openMetricsWorld({ openMetrics: true });
    expect((await open.scrape({})).status).toBe(200);
    expect((await open.scrape({ origin: 'http://evil.example' })).status).toBe(403);
    expect((await open.scrape({ host: 'evil.example' })).status).toBe(403);
  });

  it('every metric has a sample, and its buckets ascend', async () => {
    for (const { name, type, samples } of await families()) {
      expect(samples, name).not.toHaveLength(0);
      if (type !== 'histogram') continue;
      let [key, last] = ['', 0];
      for (const one of samples.filter((sample) => sample.name.endsWith('_bucket'))) {
        const { le: _, ...rest } = one.labels;
        if (JSON.stringify(rest) !== key) [key, last] = [JSON.stringify(rest), 0];
        expect(one.value).toBeGreaterThanOrEqual(last);
        last = one.value;
      }
    }
  });

  it('starts, ends, tokens, traffic: match the events', async () => {
    expect(await counted('neurovisor_vm_boot_seconds_count', { origin: 'boot' })).toBe(1);
    expect(await counted('neurovisor_vm_acquire_seconds_count', { origin: 'pool' })).toBe(1);
    expect(await counted('neurovisor_sandboxes', { status: 'running' })).toBe(2);
    expect(await counted('neurovisor_sandboxes_ended_total', { cause: 'stopped' })).toBe(1);
    expect(await counted('neurovisor_memory_resizes_total', { direction: 'more' })).toBe(1);
    expect(await counted('neurovisor_channel_bytes_total')).toBe(1);
    const model = { model: 'm1', dialect: 'openai' };
    expect(await counted('neurovisor_requests_total', { ...model, outcome: 'ok' })).toBe(1);
    expect(await counted('neurovisor_requests_total', { outcome: 'refused' })).toBe(1);
    expect(await counted('neurovisor_time_to_first_token_seconds_count', model)).toBe(1);
    expect(await counted('neurovisor_inter_token_seconds_count', model)).toBe(2);
    expect(await counted('neurovisor_tokens_generated_total', model)).toBe(7);
    const route = { method: 'POST', route: '/v1/sandboxes', status: '201' };
    expect(await counted('neurovisor_api_requests_total', route)).toBe(3);
    expect(await counted('neurovisor_network_refused_packets_total')).toBe(5);
  });

  it('channel traffic of an ended sandbox stays counted', async () => {
    const { id } = await world.host.control.create({ boot: true });
    const before = await counted('neurovisor_channel_bytes_total');
    for (let n = 0; n < 5; n += 1) world.host.carry(id);
    await world.host.control.remove(id);
    expect(await counted('neurovisor_channel_bytes_total')).toBe(before + 5);
  });

  it('a scrape while sandboxes are torn down answers, each time', async () => {
    const { control } = world.host;
    const made = await Promise.all(Array.from({ length: 40 }, () => control.create({ boot: true })));
    const scrapes = Array.from({ length: 10 }, () => world.scrape());
    const removed = made.map(({ id }) => control.remove(id));
    const more = Array.from({ length: 10 }, () => world.scrape());
    for (const { status, text } of await Promise.all([...scrapes, ...more])) {
      expect(status).toBe(200);
      parseExposition(text);
    }
    await Promise.all(removed);
    expect(await counted('neurovisor_sandboxes', { status: 'running' })).toBe(2);
  });

  it('unknown models and routes in requests create no series', async () => {
    const { server, upstream } = world;
    const before = (await families()).flatMap(({ samples }) => samples).length;
    upstream.answer((_, response) => sendJson(response, 404, { error: 'no such model' }));
    for (let n = 0; n < 100; n += 1) {
      await world.infer({ model: `invented-${n}`, messages: [{ role: 'user', content: 'x' }] });
      await server.app.inject({
        method: 'GET',
        url: `/v1/${n}?trace=${n}`,
        headers: { host: 'localhost', 'x-api-key': 'key-of-this-test' },
      });
    }
    const text = (await world.scrape()).text;
    expect(text).not.toContain('invented');
    const after = parseExposition(text).flatMap(({ samples }) => samples).length;
    expect(after - before).toBeLessThan(60);
  });

  it('10 000 sandboxes leave no more series than 100', async () => {
    const { metrics } = world;
    const count = async (): Promise<number> => (await families()).flatMap(({ samples }) => samples).length;
    const feed = (from: number, to: number): void => {
      for (let n = from; n < to; n += 1) {
        const sandboxId = `sandbox${n}`;
        let end: (of: object) => void = () => undefined;
        metrics.watch({
          spec: { id: sandboxId, memoryMib: 1 },
          events: { listen: () => () => undefined },
          onTransition: () => () => undefined,
          // Ends in the next turn.
          ended: new Promise((resolve) => {
            end = resolve;
          }),
        } as never);
        const timings = { queueMs: 1, ttftMs: 1, totalMs: 1 };
        metrics.noteUsage({
          sandboxId,
          model: 'm',
          operation: 'chat',
          promptTokens: 1,
          completionTokens: 1,
          estimated: false,
          stream: true,
          status: 200,
          outcome: 'ok',
          timings,
        });
        end({ cause: 'stopped' });
      }
    };
    feed(0, 100);
    await Promise.resolve();
    const few = await count();
    for (let from = 100; from < 10_000; from += 100) {
      feed(from, from + 100);
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(await count()).toBe(few);
    expect(await counted('neurovisor_vm_ends_total', { cause: 'stopped' })).toBeGreaterThan(9999);
  });
});

/** A row of the table in docs/metrics.md. */
function rowOf({ name, type, labels, help }: Metric): string {
  const list = labels.map((label) => `\`${label}\``).join(', ');
  return `| \`${name}\` | ${type} | ${list || '–'} | ${help} |`;
}

describe('neurovisor_ignored_errors_total', () => {
  it('an ignored error is counted by its code', async () => {
    const before = await counted('neurovisor_ignored_errors_total', { code: 'EIO' });
    ignore(Object.assign(new Error('i/o error'), { code: 'EIO' }), 'a test');
    expect(await counted('neurovisor_ignored_errors_total', { code: 'EIO' })).toBe(before + 1);
  });
});

describe('docs/metrics.md', () => {
  it('has each name with its type and labels, and no other', () => {
    const doc = readFileSync(join(ROOT, 'docs/metrics.md'), 'utf8');
    const written = doc.split('\n').filter((line) => /^\| `(neurovisor|process)_/.test(line));
    const rows = world.metrics.registry.list().map(rowOf);
    expect(written.toSorted()).toEqual(rows.toSorted());
  });
});

describe('deploy/', () => {
  it.each([
    ['grafana/neurovisor.json', 40],
    ['prometheus/alerts.yml', 8],
  ])('%s: each name and label in each expression exists in a live /metrics', async (path, least) => {
    const samples = (await families()).flatMap((family) => family.samples);
    const all = expressions(parse(readFileSync(join(ROOT, 'deploy', path), 'utf8')));
    expect(all.length).toBeGreaterThan(least);
    for (const expr of all) {
      // Prometheus makes `up` itself.
      for (const { name, labels } of namesIn(expr).filter((used) => used.name !== 'up')) {
        const found = samples.filter((sample) => sample.name === name);
        expect(found, `${name} in ${expr}`).not.toHaveLength(0);
        for (const label of labels) {
          expect(Object.keys(found[0]?.labels ?? {}), `${name} in ${expr}`).toContain(label);
        }
      }
    }
  });

  it('the dashboard uses every metric', () => {
    const text = readFileSync(join(ROOT, 'deploy/grafana/neurovisor.json'), 'utf8');
    for (const { name } of world.metrics.registry.list()) expect(text).toContain(name);
  });

  it('canaries: the check finds a wrong name, label or bracket', () => {
    expect(namesIn('sum by (a, b) (rate(x_total{c="d"}[5m])) / y')).toEqual([
      { name: 'x_total', labels: ['c', 'a', 'b'] },
      { name: 'y', labels: ['a', 'b'] },
    ]);
    expect(namesIn('a == 0 and b > 1 or c').map(({ name }) => name)).toEqual(['a', 'b', 'c']);
    expect(() => namesIn('sum(rate(x[5m])')).toThrow('bracket');
  });
});
