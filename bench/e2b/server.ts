/** The thread of the E2B benchmark's server. Its control plane makes sandboxes of nothing and keeps the newest 1000. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { parentPort } from 'node:worker_threads';
import { createE2bServer } from '../../src/api/e2b/server.ts';
import { accessTokens } from '../../src/api/e2b/tokens.ts';
import { operatorOnly } from '../../src/api/tenants/callers.ts';
import { systemClock } from '../../src/base/clock.ts';
import { newSandboxId } from '../../src/base/ids.ts';
import { silentLog } from '../../src/base/log.ts';
import type { ControlPlane, CreateRequest, SandboxInfo } from '../../src/sandbox/contract/control.ts';
import { NO_MODEL_POLICY } from '../../src/sandbox/contract/model-policy.ts';

export interface ServerReady {
  readonly port: number;
  readonly apiKey: string;
}

/** Delays of this thread's event loop since the last report, milliseconds. Any message requests one. */
export interface LoopReport {
  readonly p99Ms: number;
  readonly maxMs: number;
}

const API_KEY = `e2b_${'0'.repeat(40)}`;
const KEPT_MAX = 1000;
/** Interval of event loop samples, milliseconds; the figure includes it. */
const LOOK_MS = 1;
const NS_PER_MS = 1e6;
const kept = new Map<string, SandboxInfo>();

function sandboxOf(request: CreateRequest): SandboxInfo {
  const { timeoutMs = null, onTimeout = 'kill', metadata = {}, annotations = {} } = request;
  const createdAtMs = systemClock.wall();
  return {
    id: newSandboxId(),
    name: null,
    status: 'running',
    pausedTo: null,
    pauseReason: null,
    foreignPause: null,
    cpus: 1,
    memoryMib: 512,
    memoryMaxMib: null,
    diskMib: 2048,
    image: null,
    metadata,
    annotations,
    origin: 'pool',
    snapshot: null,
    template: request.template ?? null,
    parent: null,
    accelerator: 'none',
    sharesMemory: null,
    createdAtMs,
    endsAtMs: timeoutMs === null ? null : createdAtMs + timeoutMs,
    onTimeout,
    idleTimeoutMs: null,
    autoResume: request.autoResume ?? true,
    onMemoryPressure: 'warn',
    diskLimits: {},
    models: NO_MODEL_POLICY,
    modelUse: { account: '', used: null },
    packages: null,
    network: null,
    secrets: [],
    volumes: [],
    timings: null,
    readyMs: 0,
    end: null,
  };
}

/** The part of a control plane that a server and its creations need. */
const control = {
  create: async (request: CreateRequest) => {
    const info = sandboxOf(request);
    kept.set(info.id, info);
    const [oldest = ''] = kept.keys();
    if (kept.size > KEPT_MAX) kept.delete(oldest);
    return info;
  },
  list: async () => [...kept.values()],
  onChange: () => () => undefined,
} as unknown as ControlPlane;

const e2b = await createE2bServer({
  control,
  clock: systemClock,
  log: silentLog,
  tokens: accessTokens(Buffer.alloc(32)),
  callers: operatorOnly(control, API_KEY),
  domain: () => 'localhost',
});
const server = createServer((request, response) => e2b.request(request, response));
server.listen(0, '127.0.0.1', () => {
  const { port } = server.address() as AddressInfo;
  parentPort?.postMessage({ port, apiKey: API_KEY } satisfies ServerReady);
});

const delay = monitorEventLoopDelay({ resolution: LOOK_MS });
delay.enable();
parentPort?.on('message', () => {
  const ms = (ns: number): number => Math.max(0, ns / NS_PER_MS - LOOK_MS);
  const report = { p99Ms: ms(delay.percentile(99)), maxMs: ms(delay.max) } satisfies LoopReport;
  delay.reset();
  parentPort?.postMessage(report);
});
