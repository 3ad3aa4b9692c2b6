/**
 * The bridge beside another model gateway: LiteLLM's proxy, one worker, in front of the same scripted upstream, with
 * the same requests.
 */
import { spawn } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CleanupStack } from '../../src/base/cleanup.ts';
import { resolveHome } from '../../src/base/home.ts';
import type { Benchmark, Measurement } from '../benchmark.ts';
import { findProgram } from '../program.ts';
import type { Place } from './chat-client.ts';
import { compare, figures, OVERHEAD_SIZES, type OverheadSizes, openBridge } from './overhead.ts';
import { waitForPlace } from './peers.ts';

const PROGRAM = 'litellm';
/** A virtual environment below the cache, created by hand. */
const ENVIRONMENT = 'bench-gateway';
/** LiteLLM adds tens of milliseconds, so fewer requests are enough. */
const SIZES = { ...OVERHEAD_SIZES, requests: 30, warmUp: 100, calm: true };

export const gatewayBenchmark = gatewayBenchmarkOf(SIZES);

export function gatewayBenchmarkOf(sizes: OverheadSizes): Benchmark {
  return {
    names: figures('bridge.gateway', sizes),
    summary: `the same through the bridge against LiteLLM's proxy, if it is in PATH or in ${ENVIRONMENT} of the cache`,
    withoutRuntime: true,
    async measure(context) {
      const dirs = [join(resolveHome(context.config.home).cacheDir, ENVIRONMENT, 'bin')];
      const program = findProgram(PROGRAM, process.env, dirs);
      if (program === null) return this.names.map(notMeasured);
      await using cleanup = new CleanupStack();
      const { dir, upstream, bridge } = await openBridge(cleanup, 'tcp');
      const gateway = await startGateway(cleanup, program, dir, upstream);
      const ways = { own: { socketPath: bridge }, baseline: gateway };
      const note =
        'its upstream and its port are TCP on loopback, the port of the bridge is a unix socket; one worker, no database, no log';
      return await compare('bridge.gateway', 'LiteLLM proxy', ways, { sizes, context, note });
    },
  };
}

function notMeasured(name: string): Measurement {
  const note = `not measured: ${PROGRAM} is neither in PATH nor in ${ENVIRONMENT} of the cache; docs/benchmarks.md tells how to install it`;
  return { name, unit: 'ms', accelerator: 'none', samples: [], baseline: null, failed: 1, note };
}

async function startGateway(cleanup: CleanupStack, program: string, dir: string, upstream: Place): Promise<Place> {
  const file = join(dir, 'gateway.json');
  const port = 'port' in upstream ? upstream.port : 0;
  const params = { model: 'openai/bench', api_base: `http://127.0.0.1:${port}/v1`, api_key: 'host' };
  // LiteLLM reads YAML, of which JSON is a subset.
  await writeFile(file, JSON.stringify({ model_list: [{ model_name: 'bench', litellm_params: params }] }));
  const options = ['--host', '127.0.0.1', '--port', '0', '--num_workers', '1'];
  const child = spawn(program, ['--config', file, ...options, '--telemetry', 'False'], {
    stdio: ['ignore', 'pipe', 'pipe'],
    // It fetches no prices, reads no settings of a checkout, and logs only errors.
    env: { ...process.env, LITELLM_LOCAL_MODEL_COST_MAP: 'True', LITELLM_MODE: 'PRODUCTION', LITELLM_LOG: 'ERROR' },
    cwd: dir,
  });
  const place = await waitForPlace(cleanup, child, PROGRAM, / on http:\/\/127\.0\.0\.1:(\d+)/);
  return { host: '127.0.0.1', port: Number(place) };
}
