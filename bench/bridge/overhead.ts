/**
 * The overhead of the bridge on the host: a client calls a scripted upstream directly and through the bridge, in turn,
 * one request alone and beside as many streams as a host with many agents has. All three are separate processes. No VM
 * is involved.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CleanupStack } from '../../src/base/cleanup.ts';
import { sleep } from '../../src/base/clock.ts';
import { percentile } from '../../src/base/statistics.ts';
import type { BenchContext, Benchmark, Measurement } from '../benchmark.ts';
import { waitForCalm } from '../calm.ts';
import { ChatClient, chat, ended, type Place } from './chat-client.ts';
import { startPeer } from './peers.ts';

export interface OverheadSizes {
  /** Numbers of concurrent requests and streams, each a figure of its own. */
  readonly atOnce: readonly number[];
  /** Requests per round and way. */
  readonly requests: number;
  /** Maximum time for all of them. The request in flight then counts with the time so far, and is the last. */
  readonly requestsMsMax: number;
  readonly chunks: number;
  /** Uncounted requests of each way, to warm up the JIT. */
  readonly warmUp: number;
  /** Waits until the machine is idle before each way of a round, since a gateway may be busy after its requests. */
  readonly calm: boolean;
}

export const OVERHEAD_SIZES: OverheadSizes = {
  atOnce: [1, 16, 64],
  requests: 100,
  requestsMsMax: 5_000,
  chunks: 50,
  warmUp: 300,
  calm: false,
};

const KINDS = ['request', 'chunk'] as const;
/** The same as in `peer.ts`; the starts of streams are spread over it. */
const CHUNK_INTERVAL_MS = 20;

/** Milliseconds, in order of measurement. */
type Samples = Record<(typeof KINDS)[number], number[]>;

export const bridgeBenchmark = overheadBenchmark(OVERHEAD_SIZES);

export function overheadBenchmark(sizes: OverheadSizes): Benchmark {
  return {
    names: figures('bridge', sizes),
    summary:
      'a small completion, and a chunk of a stream, with so many at once: through the bridge against a direct call',
    withoutRuntime: true,
    async measure(context) {
      await using cleanup = new CleanupStack();
      const { upstream, bridge } = await openBridge(cleanup);
      const ways = { own: { socketPath: bridge }, baseline: upstream };
      const note =
        'host side: client, bridge and upstream are three processes over unix sockets; 50 chunks a second and stream';
      return await compare('bridge', 'upstream called directly', ways, { sizes, context, note });
    },
  };
}

/** A scripted upstream, and the bridge in front of it. @param upstreamPlace a port of loopback. Default: a socket */
export async function openBridge(
  cleanup: CleanupStack,
  upstreamPlace: 'socket' | 'tcp' = 'socket',
): Promise<{ readonly dir: string; readonly upstream: Place; readonly bridge: string }> {
  const dir = await mkdtemp(join(tmpdir(), 'nv-bench-'));
  cleanup.push('directory', () => rm(dir, { recursive: true, force: true }));
  const bridge = join(dir, 'bridge.sock');
  const at = upstreamPlace === 'tcp' ? 'tcp' : join(dir, 'upstream.sock');
  const server = await startPeer(cleanup, ['upstream', at]);
  await startPeer(cleanup, ['bridge', bridge, server]);
  const upstream: Place =
    upstreamPlace === 'tcp' ? { host: '127.0.0.1', port: Number(server) } : { socketPath: server };
  return { dir, upstream, bridge };
}

export function figures(name: string, { atOnce }: OverheadSizes): readonly string[] {
  return KINDS.flatMap((kind) => atOnce.map((count) => `${name}.${kind}/${count}`));
}

/** Measures both ways in turn, so that both see the same disturbances. */
export async function compare(
  name: string,
  baseline: string,
  ways: { readonly own: Place; readonly baseline: Place },
  options: {
    readonly sizes: OverheadSizes;
    readonly context: Pick<BenchContext, 'rounds' | 'signal' | 'say' | 'wants'>;
    readonly note: string;
  },
): Promise<readonly Measurement[]> {
  const { sizes, context, note } = options;
  const { rounds, signal, say, wants } = context;
  using own = new ChatClient(ways.own);
  using other = new ChatClient(ways.baseline);
  for (const client of [own, other]) {
    await requestsMs(client, { ...sizes, requests: sizes.warmUp }, signal);
    await streamsMs(client, 1, sizes, signal);
  }
  const measured: Measurement[] = [];
  for (const count of sizes.atOnce) {
    if (!KINDS.some((kind) => wants(`${name}.${kind}/${count}`))) continue;
    const samples = { own: noSamples(), baseline: noSamples() };
    for (let round = 0; round < rounds; round += 1) {
      say(`${count} at once, round ${round + 1} of ${rounds}`);
      await measureRound(other, count, sizes, samples.baseline, signal);
      await measureRound(own, count, sizes, samples.own, signal);
    }
    for (const kind of KINDS) {
      measured.push({
        name: `${name}.${kind}/${count}`,
        unit: 'ms',
        accelerator: 'none',
        samples: samples.own[kind],
        baseline: { name: baseline, samples: samples.baseline[kind] },
        note: `${differenceNote(samples.own[kind], samples.baseline[kind])}; ${note}`,
      });
    }
  }
  return measured;
}

const noSamples = (): Samples => ({ request: [], chunk: [] });

/** Differences of percentiles: the samples of the two ways are of different requests. */
export function differenceNote(own: readonly number[], baseline: readonly number[]): string {
  const at = (percent: number): string => {
    const [ours, theirs] = [percentile(own, percent), percentile(baseline, percent)];
    if (ours === undefined || theirs === undefined) return `p${percent} -`;
    const added = ours - theirs;
    return `p${percent} ${ours.toFixed(2)} - ${theirs.toFixed(2)} = ${added.toFixed(2)} ms`;
  };
  return `difference: ${at(50)}, ${at(99)}`;
}

/** First all streams at once, then requests one after another beside all but one of them. */
async function measureRound(
  client: ChatClient,
  count: number,
  sizes: OverheadSizes,
  samples: Samples,
  signal: AbortSignal,
): Promise<void> {
  if (sizes.calm) await waitForCalm(signal);
  samples.chunk.push(...(await streamsMs(client, count, sizes, signal)));
  const aside = new AbortController();
  const endless = { ...sizes, chunks: CHUNKS_MAX };
  const both = AbortSignal.any([signal, aside.signal]);
  const streams = streamsMs(client, count - 1, endless, both).then(
    () => false,
    () => aside.signal.aborted,
  );
  try {
    // All have begun by then.
    await sleep(2 * CHUNK_INTERVAL_MS, signal);
    samples.request.push(...(await requestsMs(client, sizes, signal)));
  } finally {
    aside.abort();
  }
  if (!(await streams) && count > 1) throw new Error('streams ended before the requests beside them');
}

/** Enough for more than 20 minutes; they are canceled before. */
const CHUNKS_MAX = 60_000;

/** Sends requests one after another. Each is timed from the call to the last byte of its answer. */
async function requestsMs(
  client: ChatClient,
  { requests, requestsMsMax }: OverheadSizes,
  signal: AbortSignal,
): Promise<number[]> {
  const samples: number[] = [];
  const limit = AbortSignal.timeout(requestsMsMax);
  const both = AbortSignal.any([signal, limit]);
  while (samples.length < requests && !limit.aborted) {
    const start = process.hrtime.bigint();
    try {
      const response = await client.post(chat(PROMPT), both);
      response.resume();
      await ended(response);
    } catch (error) {
      if (signal.aborted || !limit.aborted) throw error;
    }
    samples.push(Number(process.hrtime.bigint() - start) / 1e6);
  }
  return samples;
}

/** Times the chunks of concurrent streams, each from the upstream's write to the client's read. */
async function streamsMs(
  client: ChatClient,
  count: number,
  { chunks }: OverheadSizes,
  signal: AbortSignal,
): Promise<number[]> {
  const samples: number[] = [];
  const body = chat(PROMPT, { stream: true, max_tokens: chunks });
  const one = async (i: number): Promise<void> => {
    await sleep((i * CHUNK_INTERVAL_MS) / count, signal);
    const response = await client.post(body, signal);
    response.setEncoding('utf8').on('data', (text: string) => {
      const now = process.hrtime.bigint();
      for (const match of text.matchAll(/"content":"(\d+)"/g)) {
        samples.push(Number(now - BigInt(match[1] ?? 0)) / 1e6);
      }
    });
    await ended(response);
  };
  await Promise.all(Array.from({ length: count }, (_, i) => one(i)));
  return samples;
}

const PROMPT = 'How much does the bridge add?';
