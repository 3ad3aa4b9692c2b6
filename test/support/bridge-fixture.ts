/** A bridge with one port in a directory of its own, and a client that sees bytes as they arrive. */
import { mkdtemp, rm } from 'node:fs/promises';
import { type IncomingMessage, request } from 'node:http';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CleanupStack } from '../../src/base/cleanup.ts';
import { systemClock } from '../../src/base/clock.ts';
import type { FairShareLimits } from '../../src/base/fairness/fair-share.ts';
import { type Log, silentLog } from '../../src/base/log.ts';
import {
  type Bridge,
  type BridgeOptions,
  type BridgePolicy,
  type BridgePort,
  createBridge,
  type UpstreamTarget,
  type UsageRecord,
} from '../../src/inference/bridge/bridge.ts';
import type { Draw } from '../../src/inference/bridge/routing/affinity.ts';
import type { RouteTable } from '../../src/inference/bridge/routing/route-table.ts';
import { type MockUpstream, startMockUpstream } from './mock-upstream.ts';

export interface Answered {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  readonly body: string;
  /** The connection broke before the end. */
  readonly broken: boolean;
}

export interface BridgeFixture {
  readonly dir: string;
  readonly socketPath: string;
  readonly mock: MockUpstream;
  readonly bridge: Bridge;
  readonly port: BridgePort;
  readonly usage: UsageRecord[];
  /** Resolves with the next usage record. */
  nextUsage(): Promise<UsageRecord>;
  call(path: string, body?: unknown, headers?: Record<string, string>): Promise<Answered>;
  /** Sends a request whose answer the caller reads. */
  open(path: string, body: unknown, headers?: Record<string, string>): Opened;
  /** Writes bytes and reads until the connection ends. */
  raw(bytes: string | Buffer): Promise<string>;
  connect(): Promise<Socket>;
  close(): Promise<void>;
}

export interface Opened {
  readonly head: Promise<IncomingMessage>;
  /** All text so far. */
  text(): string;
  /** Resolves when the text contains `part`; rejects when the answer ends without it. */
  until(part: string): Promise<void>;
  /** Resolves at the end, with whether the answer broke off. */
  readonly ended: Promise<{ broken: boolean }>;
  abort(): void;
}

export async function bridgeFixture(
  options: {
    policy?: BridgePolicy;
    upstream?: (mock: MockUpstream) => Promise<UpstreamTarget>;
    /** Replaces the mock. */
    routes?: RouteTable;
    draw?: Draw;
    models?: readonly string[] | null;
    apiKey?: string;
    bodyMemory?: FairShareLimits;
    tenantOf?: BridgeOptions['tenantOf'];
    modelsOf?: BridgeOptions['modelsOf'];
    cacheScopeOf?: BridgeOptions['cacheScopeOf'];
    queue?: BridgeOptions['queue'];
    sharedBudgets?: BridgeOptions['sharedBudgets'];
    tape?: BridgeOptions['tape'];
    cacheBytes?: number;
    clock?: BridgeOptions['clock'];
    log?: Log;
    requestLog?: BridgeOptions['requestLog'];
    content?: BridgeOptions['content'];
    tracer?: BridgeOptions['tracer'];
  } = {},
): Promise<BridgeFixture> {
  const cleanup = new CleanupStack();
  const dir = await mkdtemp(join(tmpdir(), 'nv-bridge-'));
  cleanup.push('directory', () => rm(dir, { recursive: true, force: true }));
  const mock = await startMockUpstream({
    ...(options.models === undefined ? {} : { models: options.models }),
    ...(options.apiKey === undefined ? {} : { apiKey: options.apiKey }),
  });
  cleanup.push('mock', () => mock.close());
  const usage: UsageRecord[] = [];
  const waiting: ((record: UsageRecord) => void)[] = [];
  const bridge = createBridge({
    upstream: options.routes ?? (() => options.upstream?.(mock) ?? Promise.resolve(mock.target)),
    ...(options.draw === undefined ? {} : { draw: options.draw }),
    clock: options.clock ?? systemClock,
    log: options.log ?? silentLog,
    ...(options.bodyMemory === undefined ? {} : { bodyMemory: options.bodyMemory }),
    ...(options.tenantOf === undefined ? {} : { tenantOf: options.tenantOf }),
    ...(options.modelsOf === undefined ? {} : { modelsOf: options.modelsOf }),
    ...(options.cacheScopeOf === undefined ? {} : { cacheScopeOf: options.cacheScopeOf }),
    ...(options.queue === undefined ? {} : { queue: options.queue }),
    tape: options.tape,
    sharedBudgets: options.sharedBudgets,
    cacheBytes: options.cacheBytes,
    requestLog: options.requestLog,
    content: options.content,
    ...(options.tracer === undefined ? {} : { tracer: options.tracer }),
    onUsage(record) {
      usage.push(record);
      for (const resolve of waiting.splice(0)) resolve(record);
    },
  });
  cleanup.push('bridge', () => bridge.close());
  const socketPath = join(dir, 'v_1025');
  const { policy } = options;
  const caller = { sandboxId: 'sandbox-a', socketPath, ...(policy === undefined ? {} : { policy }) };
  const port = await bridge.attach(caller);
  return {
    dir,
    socketPath,
    mock,
    bridge,
    port,
    usage,
    nextUsage: () => new Promise((resolve) => waiting.push(resolve)),
    call: (path, body, headers) => call(socketPath, path, body, headers),
    open: (path, body, headers) => open(socketPath, path, body, headers),
    raw: (bytes) => raw(socketPath, bytes),
    connect: () => connected(socketPath),
    close: () => cleanup.run(),
  };
}

export async function call(
  socketPath: string,
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<Answered> {
  const opened = open(socketPath, path, body, headers);
  const head = await opened.head;
  const { broken } = await opened.ended;
  return { status: head.statusCode ?? 0, headers: head.headers, body: opened.text(), broken };
}

export function open(socketPath: string, path: string, body?: unknown, headers: Record<string, string> = {}): Opened {
  const method = body === undefined ? 'GET' : 'POST';
  const outgoing = request({ socketPath, path, method, headers, agent: false });
  const isBytes = body === undefined || typeof body === 'string' || Buffer.isBuffer(body);
  const text = isBytes ? body : JSON.stringify(body);
  outgoing.end(text);
  let seen = '';
  const waiting = new Set<() => void>();
  const ended = Promise.withResolvers<{ broken: boolean }>();
  const head = new Promise<IncomingMessage>((resolve, reject) => {
    outgoing.on('error', (error) => {
      ended.resolve({ broken: true });
      reject(error);
    });
    outgoing.on('response', (response) => {
      resolve(response);
      response.setEncoding('utf8');
      response.on('data', (part: string) => {
        seen += part;
        for (const check of waiting) check();
      });
      response.on('error', () => undefined);
      response.on('close', () => ended.resolve({ broken: !response.complete }));
    });
  });
  head.catch(() => undefined);
  const until = (part: string): Promise<void> =>
    new Promise((resolve, reject) => {
      const check = (): void => {
        if (!seen.includes(part)) return;
        waiting.delete(check);
        resolve();
      };
      waiting.add(check);
      check();
      void ended.promise.then(() => reject(new Error(`ended without ${part}: ${seen}`)));
    });
  return { head, text: () => seen, until, ended: ended.promise, abort: () => outgoing.destroy() };
}

async function raw(socketPath: string, bytes: string | Buffer): Promise<string> {
  const socket = await connected(socketPath);
  let seen = '';
  socket.setEncoding('latin1');
  socket.on('data', (part: string) => {
    seen += part;
  });
  const closed = new Promise<string>((resolve) => socket.once('close', () => resolve(seen)));
  socket.write(bytes);
  return closed;
}

function connected(socketPath: string): Promise<Socket> {
  return new Promise((resolve) => {
    const socket = connect(socketPath, () => resolve(socket));
    socket.on('error', () => undefined);
  });
}
