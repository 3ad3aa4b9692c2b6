/**
 * Creations through E2B's control plane: HTTP, keys, schemas and views, on a control plane whose sandboxes are rows of a
 * map. The server is a thread of its own; the clients are this one.
 */
import { once } from 'node:events';
import { Agent, request } from 'node:http';
import { Worker } from 'node:worker_threads';
import { modulePath } from '../../base/module-path.ts';
import type { Benchmark, Measurement } from '../benchmark.ts';
import type { ServerReady } from './server.ts';

const CLIENTS = 16;
const WARM_UP = 500;
const CREATIONS_PER_ROUND = 1000;
const BODY = JSON.stringify({ templateID: 'agent', metadata: { owner: 'bench' }, envVars: {} });

export const e2bControlBenchmark: Benchmark = {
  names: ['e2b.control.create', 'e2b.control.rate'],
  summary: `creations by ${CLIENTS} clients at once through E2B's control plane, without VMs`,
  withoutRuntime: true,
  async measure({ rounds, signal, say }) {
    say(`${rounds} rounds of ${CREATIONS_PER_ROUND} creations by ${CLIENTS} clients at once`);
    const worker = new Worker(modulePath('./server.ts', import.meta.url), { name: 'e2b' });
    const agent = new Agent({ keepAlive: true, maxSockets: CLIENTS });
    try {
      const [ready] = (await once(worker, 'message', { signal })) as [ServerReady];
      const create = (): Promise<number> => createMs(ready, agent);
      await inParallel(WARM_UP, create);
      const latencies: number[] = [];
      const rates: number[] = [];
      for (let round = 0; round < rounds && !signal.aborted; round += 1) {
        const began = performance.now();
        latencies.push(...(await inParallel(CREATIONS_PER_ROUND, create)));
        rates.push((CREATIONS_PER_ROUND * 1000) / (performance.now() - began));
      }
      return figures(latencies, rates);
    } finally {
      agent.destroy();
      await worker.terminate();
    }
  },
};

function figures(latencies: readonly number[], rates: readonly number[]): Measurement[] {
  const sorted = latencies.toSorted((a, b) => a - b);
  const p99 = sorted[Math.floor(sorted.length * 0.99)] ?? 0;
  const both = { accelerator: 'none', baseline: null } as const;
  return [
    {
      ...both,
      name: 'e2b.control.create',
      unit: 'ms',
      samples: latencies,
      note: `p99 ${p99.toFixed(1)} ms; clients and server are two threads of one process`,
    },
    { ...both, name: 'e2b.control.rate', unit: '1/s', samples: rates },
  ];
}

/** Runs `work` so often, for all clients together. */
async function inParallel(times: number, work: () => Promise<number>): Promise<number[]> {
  const done: number[] = [];
  let left = times;
  const client = async (): Promise<void> => {
    while (left > 0) {
      left -= 1;
      done.push(await work());
    }
  };
  await Promise.all(Array.from({ length: CLIENTS }, client));
  return done;
}

/** From the call to the last byte of the answer. @throws unless the sandbox was created */
function createMs({ port, apiKey }: ServerReady, agent: Agent): Promise<number> {
  const began = performance.now();
  return new Promise((resolve, reject) => {
    const headers = { 'x-api-key': apiKey, 'content-type': 'application/json' };
    const path = '/v2/sandboxes';
    const sent = request({ host: '127.0.0.1', port, agent, method: 'POST', path, headers });
    sent.once('error', reject);
    sent.once('response', (answer) => {
      answer.resume();
      answer.once('end', () => {
        if (answer.statusCode === 201) resolve(performance.now() - began);
        else reject(new Error(`a creation was answered with ${answer.statusCode}`));
      });
    });
    sent.end(BODY);
  });
}
