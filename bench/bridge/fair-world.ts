/** Sandboxes that share one scripted model server, with and without the bridge's turns. */
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import type { CleanupStack } from '../../src/base/cleanup.ts';
import { sleep, systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { modulePath } from '../../src/base/module-path.ts';
import { type BridgePort, createBridge, type UpstreamTarget } from '../../src/inference/bridge/bridge.ts';
import { ChatClient, chat, ended } from './chat-client.ts';
import type { ServerReport, ServerSetup } from './model-server.ts';
import { monotonicMs } from './server-times.ts';

export interface Load {
  readonly promptTokens: number;
  readonly answerTokens: number;
}

/** `turns`: the bridge knows the server's slots. `fifo`: it does not, so the server's own queue decides. */
export type Way = 'turns' | 'fifo';

export interface Answered {
  /** Monotonic clock. */
  readonly sentAtMs: number;
  /** From the request to the first text of its answer. */
  readonly firstMs: number;
}

export interface Hogs extends AsyncDisposable {
  /** Number of complete answers of the sandbox with the fewest. @throws the failure of another request */
  readonly leastFinished: number;
}

const LOOK_EVERY_MS = 10;
const CHARACTERS_PER_TOKEN = 4;
const NOTHING: Load = { promptTokens: 1, answerTokens: 1 };
/** More than any sandbox has at once. */
const LIMITS = { connectionsMax: 256, requestsInFlightMax: 256 };

export class FairWorld {
  readonly #worker: Worker;
  readonly #ports: readonly BridgePort[];
  readonly #clients: ReadonlyMap<string, ChatClient>;
  readonly #signal: AbortSignal;

  private constructor(
    worker: Worker,
    ports: readonly BridgePort[],
    clients: ReadonlyMap<string, ChatClient>,
    signal: AbortSignal,
  ) {
    this.#worker = worker;
    this.#ports = ports;
    this.#clients = clients;
    this.#signal = signal;
  }

  /** @param callers names of sandboxes, without a space */
  static async open(
    cleanup: CleanupStack,
    slots: number,
    callers: readonly string[],
    signal: AbortSignal,
  ): Promise<FairWorld> {
    const dir = await mkdtemp(join(tmpdir(), 'nv-bench-'));
    cleanup.push('directory', () => rm(dir, { recursive: true, force: true }));
    const socketPath = join(dir, 'server.sock');
    const workerData: ServerSetup = { socketPath, slots };
    const path = modulePath('./model-server.ts', import.meta.url);
    const worker = new Worker(path, { name: 'model-server', workerData });
    cleanup.push('model server', () => worker.terminate());
    await once(worker, 'message', { signal });
    const target = { name: 'bench', socketPath, models: ['bench'] };
    const targets: Record<Way, UpstreamTarget> = { turns: { ...target, slots }, fifo: target };
    const ports: BridgePort[] = [];
    const clients = new Map<string, ChatClient>();
    for (const way of ['turns', 'fifo'] as const) {
      const upstream = () => Promise.resolve(targets[way]);
      const bridge = createBridge({ upstream, clock: systemClock, log: silentLog });
      cleanup.push('bridge', () => bridge.close());
      for (const caller of callers) {
        const at = join(dir, `${way}-${caller}.sock`);
        const policy = { limits: LIMITS };
        ports.push(await bridge.attach({ sandboxId: caller, socketPath: at, policy }));
        const client = new ChatClient({ socketPath: at });
        cleanup.push('client', () => client[Symbol.dispose]());
        clients.set(`${way} ${caller}`, client);
      }
    }
    return new FairWorld(worker, ports, clients, signal);
  }

  /** The server's activity since the last report. */
  async report(): Promise<ServerReport> {
    const answer = once(this.#worker, 'message', { signal: this.#signal });
    this.#worker.postMessage('report');
    const [report] = (await answer) as [ServerReport];
    return report;
  }

  /** Sends a request, and resolves at the end of its answer. */
  async ask(way: Way, caller: string, load: Load, signal = this.#signal): Promise<Answered> {
    const prompt = `${caller} `.padEnd(load.promptTokens * CHARACTERS_PER_TOKEN, 'x');
    const client = this.#clients.get(`${way} ${caller}`);
    const sentAtMs = monotonicMs();
    const body = chat(prompt, { stream: true, max_tokens: load.answerTokens });
    const response = await client?.post(body, signal);
    if (response === undefined) throw new Error(`no caller ${caller}`);
    let firstAtMs: number | undefined;
    response.setEncoding('utf8').on('data', (text: string) => {
      if (text.includes('"content"')) firstAtMs ??= monotonicMs();
    });
    await ended(response);
    if (firstAtMs === undefined) throw new Error('an answer without text');
    return { sentAtMs, firstMs: firstAtMs - sentAtMs };
  }

  /** Sandboxes that always have this many requests each in flight, until they are disposed of together. */
  hogs(way: Way, loads: Readonly<Record<string, readonly Load[]>>, atOnce: number): Hogs {
    const stop = new AbortController();
    const signal = AbortSignal.any([stop.signal, this.#signal]);
    const finished = new Map(Object.keys(loads).map((name) => [name, 0]));
    let failure: unknown;
    const loop = async (name: string, own: readonly Load[], first: number): Promise<void> => {
      for (let i = first; !signal.aborted; i += atOnce) {
        await this.ask(way, name, own[i % own.length] ?? NOTHING, signal);
        finished.set(name, (finished.get(name) ?? 0) + 1);
      }
    };
    const loops = Object.entries(loads).flatMap(([name, own]) =>
      Array.from({ length: atOnce }, (_, i) =>
        loop(name, own, i).catch((error: unknown) => {
          if (!signal.aborted) failure ??= error;
        }),
      ),
    );
    return {
      get leastFinished() {
        if (failure !== undefined) throw failure;
        return Math.min(...finished.values());
      },
      [Symbol.asyncDispose]: async () => {
        stop.abort();
        await Promise.all(loops);
        await this.until(() => this.#ports.every((port) => port.stats().inFlight === 0));
      },
    };
  }

  async until(isReached: () => boolean): Promise<void> {
    while (!isReached()) await sleep(LOOK_EVERY_MS, this.#signal);
  }
}
