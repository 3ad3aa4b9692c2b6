/** The bridge's benchmarks at their smallest: which figures there are, and what holds whatever the machine. */
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type BenchContext, type Benchmark, isWanted, type Measurement } from '../../bench/benchmark.ts';
import { fairnessBenchmarkOf } from '../../bench/bridge/fairness.ts';
import { gatewayBenchmarkOf } from '../../bench/bridge/gateway.ts';
import { overheadBenchmark } from '../../bench/bridge/overhead.ts';
import { readConfig } from '../../src/base/config.ts';
import { silentLog } from '../../src/base/log.ts';
import { temporaryDirectory } from '../support/image.ts';

const OVERHEAD = { atOnce: [1, 3], requests: 5, requestsMsMax: 60_000, chunks: 4, warmUp: 1, calm: false };
const FAIRNESS = { politeCallers: 3, requests: 2, pauseMs: 50, hogAtOnce: 20, windowMs: 2_000 };

async function measure(
  benchmark: Benchmark,
  options: { readonly home?: string; readonly wanted?: readonly string[] } = {},
): Promise<ReadonlyMap<string, Measurement>> {
  const { home = '', wanted = [] } = options;
  const context: BenchContext = {
    get runtime(): never {
      throw new Error('it needs none');
    },
    config: readConfig({ ...process.env, NEUROVISOR_HOME: home }),
    rounds: 1,
    signal: new AbortController().signal,
    log: silentLog,
    wants: (name) => isWanted(name, wanted),
    say: () => undefined,
  };
  const measured = await benchmark.measure(context);
  return new Map(measured.map((one) => [one.name, one]));
}

const count = (measured: ReadonlyMap<string, Measurement>, name: string) => [
  measured.get(name)?.samples.length,
  measured.get(name)?.baseline?.samples.length,
];

describe('bench bridge', () => {
  it('overhead: each request and each chunk of all streams is a sample, both ways', async () => {
    const benchmark = overheadBenchmark(OVERHEAD);
    const measured = await measure(benchmark);
    expect([...measured.keys()].toSorted()).toEqual([...benchmark.names].toSorted());
    expect(count(measured, 'bridge.request/1')).toEqual([5, 5]);
    expect(count(measured, 'bridge.request/3')).toEqual([5, 5]);
    expect(count(measured, 'bridge.chunk/1')).toEqual([4, 4]);
    expect(count(measured, 'bridge.chunk/3')).toEqual([12, 12]);
    for (const { samples, failed = 0 } of measured.values()) {
      expect(Math.min(...samples)).toBeGreaterThan(0);
      expect(failed).toBe(0);
    }
  });

  it('overhead: figures that are not wanted are not measured', async () => {
    const measured = await measure(overheadBenchmark(OVERHEAD), { wanted: ['bridge.chunk/1'] });
    expect(measured.has('bridge.chunk/1')).toBe(true);
    expect(measured.has('bridge.chunk/3')).toBe(false);
  });

  it('gateway: without the program nothing is measured, and the note says so', async () => {
    const benchmark = gatewayBenchmarkOf(OVERHEAD);
    const measured = await measure(benchmark, { home: await temporaryDirectory() });
    expect([...measured.keys()]).toEqual(benchmark.names);
    for (const { samples, baseline, failed, note } of measured.values()) {
      expect([samples, baseline, failed]).toEqual([[], null, 1]);
      expect(note).toContain('not measured: litellm');
    }
  });

  it('gateway: the program of the cache gets the address of the upstream, and its answers are the baseline', async () => {
    const home = await temporaryDirectory();
    const bin = join(home, 'cache/bench-gateway/bin');
    mkdirSync(bin, { recursive: true });
    writeFileSync(join(bin, 'litellm'), `#!${process.execPath}\n${GATEWAY}`);
    chmodSync(join(bin, 'litellm'), 0o755);
    const measured = await measure(gatewayBenchmarkOf(OVERHEAD), { home });
    expect(count(measured, 'bridge.gateway.request/3')).toEqual([5, 5]);
    expect(count(measured, 'bridge.gateway.chunk/3')).toEqual([12, 12]);
    expect(measured.get('bridge.gateway.chunk/3')?.baseline?.name).toBe('LiteLLM proxy');
  });

  it('fairness: all figures; the server never has more than its slots, and none is served before its time', async () => {
    const benchmark = fairnessBenchmarkOf(FAIRNESS);
    // It throws if requests waited in the server although the bridge gives turns.
    const measured = await measure(benchmark);
    expect([...measured.keys()].toSorted()).toEqual([...benchmark.names].toSorted());
    for (const scenario of ['many-4', 'long-4', 'long-16']) {
      const first = `bridge.fairness.first/${scenario}`;
      expect(count(measured, first)).toEqual([6, 6]);
      expect(count(measured, `${first}/least`)).toEqual([6, 6]);
      expect(count(measured, `${first}/fifo`)).toEqual([6, 3]);
      // The scripted server takes 96 ms for a polite request, and timers are rounded to 1 ms.
      for (const { samples, baseline } of [measured.get(first), measured.get(`${first}/least`)].map((one) => ({
        samples: one?.samples ?? [],
        baseline: one?.baseline?.samples ?? [],
      }))) {
        expect(Math.min(...samples, ...baseline)).toBeGreaterThan(94);
      }
      const gaps = measured.get(`bridge.fairness.idle/${scenario}`)?.samples ?? [];
      expect(gaps.length).toBeGreaterThan(0);
      expect(Math.min(...gaps)).toBeGreaterThanOrEqual(0);
    }
    const index = measured.get('bridge.fairness.index');
    const [turns = 0, fifo = 0] = [index?.samples[0], index?.baseline?.samples[0]];
    // By requests, as first come first served does, the largest gets eleven times as much as the smallest.
    expect(fifo).toBeGreaterThan(0);
    expect(turns).toBeGreaterThan(fifo);
    expect(turns).toBeLessThanOrEqual(1);
  });
});

/** Forwards everything to the upstream of its configuration, as a gateway does. */
const GATEWAY = `
const { readFileSync } = require('node:fs');
const { createServer, request } = require('node:http');
const option = (name) => process.argv[process.argv.indexOf(name) + 1];
const { model_list: [{ litellm_params: params }] } = JSON.parse(readFileSync(option('--config'), 'utf8'));
const server = createServer((from, to) => {
  const { hostname, port } = new URL(params.api_base);
  const out = request({ hostname, port, method: from.method, path: from.url }, (answer) => {
    to.writeHead(answer.statusCode, answer.headers);
    answer.pipe(to);
  });
  out.on('error', () => to.destroy());
  to.on('close', () => out.destroy());
  from.pipe(out);
});
server.listen(Number(option('--port')), option('--host'), () => {
  process.stderr.write('INFO: running on http://127.0.0.1:' + server.address().port + '\\n');
});
`;
