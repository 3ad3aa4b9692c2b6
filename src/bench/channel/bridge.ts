/**
 * The overhead of the bridge on the host: a client calls a scripted upstream directly and through the bridge, in turn.
 * All three are separate processes over unix sockets. No VM is involved.
 */
import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { Agent, type IncomingMessage, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CleanupStack } from '../../base/cleanup.ts';
import { modulePath } from '../../base/module-path.ts';
import type { Benchmark } from '../benchmark.ts';

export const bridgeBenchmark: Benchmark = {
  names: ['bridge.request', 'bridge.chunk'],
  summary: 'a small completion and a streamed chunk: through the bridge against a direct call',
  withoutRuntime: true,
  async measure({ rounds, signal, say }) {
    say('calling a scripted upstream directly and through the bridge, in turn');
    const samples = await measureBridge({ rounds, signal });
    return (['request', 'chunk'] as const).map((kind) => ({
      name: `bridge.${kind}`,
      unit: 'ms' as const,
      accelerator: 'none',
      samples: samples[kind].bridge,
      baseline: { name: 'upstream called directly', samples: samples[kind].direct },
      note: 'host side: client, bridge and upstream are three processes over unix sockets',
    }));
  },
};

/** Milliseconds, in order of measurement. */
interface BridgeSamples {
  /** One small chat completion, from the call to the last byte of its answer. */
  readonly request: Pair;
  /** One streamed chunk, from the upstream's write to the client's read. */
  readonly chunk: Pair;
}

interface Pair {
  readonly bridge: readonly number[];
  readonly direct: readonly number[];
}

interface BridgeBenchOptions {
  /** Rounds; each measures both ways. */
  readonly rounds?: number;
  readonly requestsPerRound?: number;
  readonly chunksPerRound?: number;
  readonly signal?: AbortSignal;
}

const DEFAULT_ROUNDS = 10;
const DEFAULT_REQUESTS = 100;
const DEFAULT_CHUNKS = 100;
/** Uncounted requests of each way first, to warm up the JIT. */
const WARM_UP_REQUESTS = 300;

async function measureBridge(options: BridgeBenchOptions = {}): Promise<BridgeSamples> {
  const { rounds = DEFAULT_ROUNDS, signal } = options;
  const { requestsPerRound = DEFAULT_REQUESTS, chunksPerRound = DEFAULT_CHUNKS } = options;
  await using cleanup = new CleanupStack();
  const dir = await mkdtemp(join(tmpdir(), 'nv-bench-'));
  cleanup.push('directory', () => rm(dir, { recursive: true, force: true }));
  const upstream = join(dir, 'upstream.sock');
  const bridge = join(dir, 'bridge.sock');
  await startPeer(cleanup, ['upstream', upstream]);
  await startPeer(cleanup, ['bridge', bridge, upstream]);
  const ways = { direct: new Client(upstream), bridge: new Client(bridge) };
  cleanup.push('clients', () => {
    ways.direct.close();
    ways.bridge.close();
  });
  const requests = { direct: [] as number[], bridge: [] as number[] };
  const chunks = { direct: [] as number[], bridge: [] as number[] };
  for (const way of [ways.direct, ways.bridge]) {
    await way.requests(WARM_UP_REQUESTS);
    await way.chunks(chunksPerRound);
  }
  for (let round = 0; round < rounds; round += 1) {
    for (const way of ['direct', 'bridge'] as const) {
      signal?.throwIfAborted();
      requests[way].push(...(await ways[way].requests(requestsPerRound)));
      chunks[way].push(...(await ways[way].chunks(chunksPerRound)));
    }
  }
  return { request: requests, chunk: chunks };
}

async function startPeer(cleanup: CleanupStack, args: readonly string[]): Promise<void> {
  const script = modulePath('./bridge-peer.ts', import.meta.url);
  const child = spawn(process.execPath, [script, ...args], { stdio: ['pipe', 'pipe', 'inherit'] });
  cleanup.push(`${args[0]} process`, async () => {
    const ended = new Promise((resolve) => child.once('exit', resolve));
    if (child.exitCode !== null || !child.kill('SIGKILL')) return;
    await ended;
  });
  await new Promise<void>((resolve, reject) => {
    child.stdout.once('data', () => resolve());
    child.once('error', reject);
    child.once('exit', (code) => reject(new Error(`the ${args[0]} process ended with ${code}`)));
  });
}

class Client {
  readonly #socketPath: string;
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 1 });

  constructor(socketPath: string) {
    this.#socketPath = socketPath;
  }

  /** Sends requests one after another. */
  async requests(count: number): Promise<number[]> {
    const body = chat({});
    const samples: number[] = [];
    for (let i = 0; i < count; i += 1) {
      const start = process.hrtime.bigint();
      const response = await this.#post(body);
      response.resume();
      await ended(response);
      samples.push(millisecondsSince(start));
    }
    return samples;
  }

  /** Measures the chunks of one stream. */
  async chunks(count: number): Promise<number[]> {
    const response = await this.#post(chat({ stream: true, max_tokens: count }));
    const samples: number[] = [];
    response.setEncoding('utf8').on('data', (text: string) => {
      const now = process.hrtime.bigint();
      for (const match of text.matchAll(/"content":"(\d+)"/g)) {
        samples.push(Number(now - BigInt(match[1] ?? 0)) / 1e6);
      }
    });
    await ended(response);
    return samples;
  }

  close(): void {
    this.#agent.destroy();
  }

  #post(body: string): Promise<IncomingMessage> {
    return new Promise((resolve, reject) => {
      const outgoing = request({
        socketPath: this.#socketPath,
        agent: this.#agent,
        method: 'POST',
        path: '/v1/chat/completions',
        headers: {
          'content-type': 'application/json',
          'content-length': body.length,
          authorization: 'Bearer neurovisor',
        },
      });
      outgoing.once('response', (response) => {
        if (response.statusCode === 200) resolve(response);
        else reject(new Error(`the benchmark's request got status ${response.statusCode}`));
      });
      outgoing.once('error', reject);
      outgoing.end(body);
    });
  }
}

const chat = (more: Record<string, unknown>): string =>
  JSON.stringify({
    model: 'bench',
    messages: [{ role: 'user', content: 'How much does the bridge add?' }],
    ...more,
  });

const ended = (response: IncomingMessage): Promise<void> =>
  new Promise((resolve, reject) => {
    response.once('end', resolve);
    response.once('error', reject);
  });

const millisecondsSince = (start: bigint): number => Number(process.hrtime.bigint() - start) / 1e6;
