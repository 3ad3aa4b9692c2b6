/**
 * The inference bridge: connects guests to a model server on the host, and to nothing else.
 *
 *      guest                                  host
 *     ┌──────────────────────────┐           ┌──────────────────────────────────────────────────┐
 *     │ client ─► 127.0.0.1:11434│  vsock    │ <channel>_1025 ─► port ─► exchange ─► upstream     │
 *     │           (forwarder)    │══ 1025 ══►│   (identity)      limits   policy      (key added) │
 *     └──────────────────────────┘           └──────────────────────────────────────────────────┘
 *
 * A *port* is one unix socket, and the socket identifies the caller: the bridge ignores what a request says about its
 * sender (R-IPC-8). A port serves the OpenAI API with its Responses, Anthropic's Messages and Ollama's API over
 * HTTP/1.1 (`dialect/`). Each request is an *exchange*: parsed within limits, checked against the sandbox's policy,
 * sent to the upstream when it is its turn, with the host's key instead of the guest's. Its answer returns as it
 * arrives: unchanged, or translated if client and upstream speak different dialects.
 *
 * Before you change something here:
 * - Two parsers read a JSON body, ours and the upstream's. `json-body.ts` ensures that both see the same,
 *   and edits in place: bytes that the policy does not change pass unchanged.
 * - Streams are server-sent events. The bridge requests the usage event from every upstream, counts, and
 *   removes it for clients that did not request it. It sends `: keep-alive` while the upstream is silent.
 * - Errors have the API's own form. Within a stream they are an event; a truncated answer never looks complete.
 * - A cache (`response-cache/`) answers exactly equal requests of a tenant, for sandboxes that have one.
 * - A tape (`tape/`) records requests and answers, or answers in place of the upstream; each inference request passes it.
 * - Nothing that a guest sends becomes part of a URL, a header name or a path on the host.
 *
 * Pure: limits, refusal, failure, dispatched, kept-answers, cache-hints, caller-key, headers, json-body, fields,
 * policy, sse, usage, without-key, record/answer-notes, content/, body/check-body, upstream/address, dialect/,
 * queue/token-scheduler, routing/ but for model-names and dispatcher, tape/ but for its streams and files,
 * response-cache/ but for response-cache. Input and output: listener, exchange, reply, relay, the rest of body/
 * (requests' bodies), of queue/ (turns at a model server), of routing/ (which server a request goes to) and upstream/
 * (model servers).
 */
import type { Clock } from '../../base/clock.ts';
import { FairShare, type FairShareLimits } from '../../base/fairness/fair-share.ts';
import { LoopTime } from '../../base/fairness/loop-time.ts';
import type { Log } from '../../base/log.ts';
import { gauge, type Metric } from '../../base/metrics.ts';
import type { BudgetUse } from '../../base/request/model-limits.ts';
import type { ContentMode } from '../../base/text/content-mode.ts';
import { passiveTracer, type Tracer } from '../../base/trace/trace.ts';
import type { SharedBudgets } from './admission.ts';
import { BODY_MEMORY } from './body/body.ts';
import { BODY_LOOP_TIME, BodyChecker, type CheckerLimits } from './body/body-checker.ts';
import { BridgeMetrics } from './bridge-metrics.ts';
import { Budgets } from './budget/budgets.ts';
import { CONTENT_MEMORY } from './content/content.ts';
import { BridgeError } from './errors.ts';
import { type TakeTraces, TRACE_LOOP_TIME } from './guest-traces.ts';
import { KEPT_MEMORY, KeptAnswers } from './kept-answers.ts';
import { BRIDGE_LIMITS } from './limits.ts';
import { Listener, type PortStats } from './listener.ts';
import type { BridgePolicy } from './policy.ts';
import { type QueueLimits, UpstreamQueues } from './queue/upstream-queues.ts';
import { PortRecords } from './record/port-records.ts';
import type { RequestLog } from './record/request-record.ts';
import { spokenApis } from './request-form.ts';
import { ResponseCache } from './response-cache/response-cache.ts';
import { type Draw, drawByHash } from './routing/affinity.ts';
import { Dispatcher } from './routing/dispatcher.ts';
import { ModelNames } from './routing/model-names.ts';
import { tableOf, type UpstreamSource } from './routing/route-table.ts';
import type { Tape } from './tape/tape.ts';
import { Catalog } from './upstream/catalog.ts';
import { UpstreamClient } from './upstream/client.ts';
import type { UsageRecord } from './usage.ts';

export type { Content } from './content/content.ts';
export type { PortStats } from './listener.ts';
export type { BridgePolicy } from './policy.ts';
export type { RefusedRequest, RequestLog, SentRequest } from './record/request-record.ts';
export type { UpstreamSource } from './routing/route-table.ts';
export type { UpstreamTarget } from './upstream/address.ts';
export type { UsageRecord } from './usage.ts';

export interface BridgeOptions {
  /**
   * The upstream, or several with the routes to them. A function is called for each request, so its result may change;
   * requests wait for it, streaming ones with keep-alives. If it rejects they get 503 with the error's remedy.
   */
  readonly upstream: UpstreamSource;
  readonly clock: Clock;
  readonly log: Log;
  readonly onUsage?: (usage: UsageRecord) => void;
  /** Gets a record of each request that was sent or refused. Default: no records. */
  readonly requestLog?: RequestLog | undefined;
  /** Which content of requests and answers the records have. Default `off`. */
  readonly content?: ContentMode | undefined;
  /** The owner of a sandbox; owners share an upstream equally. `null`, the default, is the operator. */
  readonly tenantOf?: (sandboxId: string) => string | null;
  /** The operator's patterns for the models of a tenant, for each request. Default: `undefined`, for all models. */
  readonly modelsOf?: (tenant: string | null) => readonly string[] | undefined;
  /** Sandboxes of the same scope share cached answers. Default: `tenantOf`. */
  readonly cacheScopeOf?: (sandboxId: string) => string | null;
  /** Default: no spans, and a guest's own `traceparent` goes to the upstream unchanged. */
  readonly tracer?: Tracer;
  /** Receives spans made in a guest. Without it, `/otlp/v1/traces` is not served. */
  readonly takeTraces?: TakeTraces | undefined;
  /** Chooses among routes. Default: by hash. */
  readonly draw?: Draw;
  /** Records the requests of ports, or answers them from a cassette. Default: neither. */
  readonly tape?: Tape | undefined;
  /** Memory in bytes for the bodies of all ports. Default `BODY_MEMORY`. */
  readonly bodyMemory?: FairShareLimits;
  readonly checker?: Partial<CheckerLimits>;
  /** Budgets that sandboxes share, beside their own. Default: none. */
  readonly sharedBudgets?: SharedBudgetOptions | undefined;
  /** Size of the response cache in bytes. Default `RESPONSE_CACHE_BYTES`. */
  readonly cacheBytes?: number | undefined;
  /** Default `QUEUE_LIMITS`. */
  readonly queue?: QueueLimits;
}

export interface SharedBudgetOptions {
  /** Called for each request, and again while it waits. */
  readonly of: SharedBudgets;
  /** Earlier use by account, restored at the start. */
  readonly used: ReadonlyMap<string, BudgetUse>;
}

export interface Caller {
  readonly sandboxId: string;
  /** Created by `attach`, removed by `close`. Its directory must be private to the host. */
  readonly socketPath: string;
  readonly policy?: BridgePolicy;
  /** The account whose budget its requests use. Default: its own. */
  readonly account?: { readonly id: string; readonly used?: BudgetUse };
}

export interface Bridge {
  /**
   * Listens at the caller's socket. All requests there count as the caller's.
   * @throws BridgeError `listen_failed`, `closed`
   */
  attach(caller: Caller): Promise<BridgePort>;
  /**
   * Use of a budget: `HOST_ACCOUNT` is that of all sandboxes, a `tenantAccount` that of the tenant's. `null` if the
   * account is unknown.
   */
  budgetUse(account: string): BudgetUse | null;
  /** Its use begins at 0 again. */
  forgetBudget(account: string): void;
  /** Metrics of all ports, including closed ones. */
  metrics(): readonly Metric[];
  close(): Promise<void>;
}

export interface BridgePort {
  stats(): PortStats;
  /**
   * Applies to requests that arrive from now on; `limits` stay those of `attach`. The budget applies to all
   * sandboxes that share the account.
   */
  setPolicy(policy: BridgePolicy): void;
  /** Suspends the port while the sandbox is saved: requests in flight and new ones get an error that says to retry. */
  setSuspended(isSuspended: boolean): void;
  /** Cancels requests in flight, to the guest and to the upstream. Idempotent. */
  close(): Promise<void>;
}

export function createBridge(options: BridgeOptions): Bridge {
  const shared = openShared(options);
  const { client, checker, queues, dispatcher, budgets, cache, metrics } = shared;
  const ports = new Set<BridgePort>();
  let closing: Promise<void> | undefined;
  return {
    async attach(caller) {
      if (closing !== undefined) throw new BridgeError('closed', 'the bridge is closed');
      const port: BridgePort = await openPort(options, shared, caller, () => ports.delete(port));
      ports.add(port);
      return port;
    },
    budgetUse: (account) => budgets.useOf(account),
    forgetBudget: (account) => budgets.forget(account),
    metrics: () => [
      ...metrics.list(),
      ...queues.metrics(),
      ...dispatcher.metrics(),
      ...cache.metrics(),
      ...portGauges(ports),
      waitingBodies(checker),
    ],
    close() {
      closing ??= Promise.all([...ports].map((port) => port.close())).then(async () => {
        client.close();
        cache.close();
        await checker.close();
      });
      return closing;
    },
  };
}

type Shared = ReturnType<typeof openShared>;

/** What all ports of a bridge share. */
function openShared(options: BridgeOptions) {
  const { upstream, clock, log, draw = drawByHash, tracer = passiveTracer() } = options;
  const client = new UpstreamClient(clock);
  const catalog = new Catalog({ client, clock, log, limits: BRIDGE_LIMITS });
  const mode = options.requestLog === undefined ? 'off' : (options.content ?? 'off');
  const queues = new UpstreamQueues(clock, options.queue);
  const budgets = new Budgets(clock);
  for (const [account, used] of options.sharedBudgets?.used ?? []) {
    budgets.restore({ account, limits: { windowMs: used.windowMs }, holders: [] }, used);
  }
  return {
    clock,
    log,
    tracer,
    client,
    catalog,
    queues,
    budgets,
    memory: new FairShare(options.bodyMemory ?? BODY_MEMORY),
    content: { mode, memory: new FairShare(CONTENT_MEMORY) } as const,
    keptMemory: new FairShare(KEPT_MEMORY),
    checker: new BodyChecker({ clock, log, limits: options.checker ?? {} }),
    models: new ModelNames(upstream, catalog),
    dispatcher: new Dispatcher({ source: upstream, queues, clock, log, draw }),
    cache: new ResponseCache(clock, options.cacheBytes),
    metrics: new BridgeMetrics(),
  };
}

async function openPort(
  options: BridgeOptions,
  { keptMemory, ...shared }: Shared,
  caller: Caller,
  onClose: () => void,
): Promise<BridgePort> {
  const { clock, budgets } = shared;
  const { sandboxId, socketPath, policy = {}, account = { id: sandboxId } } = caller;
  const share = { account: account.id, limits: policy.budget ?? {} };
  // They may have been changed while the sandbox was paused.
  budgets.setLimits(share.account, share.limits);
  if (account.used !== undefined) budgets.restore(share, account.used);
  const records = new PortRecords(options.requestLog, clock);
  const kept = new KeptAnswers(keptMemory, sandboxId);
  const listener = new Listener({
    ...shared,
    sandboxId,
    account: account.id,
    kept,
    policy,
    limits: { ...BRIDGE_LIMITS, ...policy.limits },
    bodyTime: new LoopTime(BODY_LOOP_TIME, clock),
    traceTime: new LoopTime(TRACE_LOOP_TIME, clock),
    onUsage: options.onUsage ?? ((): void => undefined),
    records,
    tenantOf: options.tenantOf ?? (() => null),
    modelsOf: options.modelsOf ?? (() => undefined),
    cacheScopeOf: options.cacheScopeOf ?? options.tenantOf ?? (() => null),
    sharedBudgets: options.sharedBudgets?.of ?? (() => []),
    takeTraces: options.takeTraces,
    tape: options.tape?.open(sandboxId),
    apis: spokenApis(tableOf(options.upstream)),
  });
  await listener.listen(socketPath);
  let closed: Promise<void> | undefined;
  return {
    stats: () => listener.stats(),
    setPolicy(changed) {
      budgets.setLimits(account.id, changed.budget ?? {});
      listener.setPolicy(changed);
    },
    setSuspended: (isSuspended) => listener.setSuspended(isSuspended),
    close() {
      onClose();
      closed ??= listener.close().finally(() => {
        records.close();
        kept.close();
      });
      return closed;
    },
  };
}

function waitingBodies(checker: BodyChecker): Metric {
  return gauge('neurovisor_bridge_bodies_waiting', 'Bodies that wait for a thread.', () => checker.waiting);
}

function portGauges(ports: ReadonlySet<BridgePort>): readonly Metric[] {
  const sum = (key: 'inFlight' | 'connections' | 'bodyBytes') => (): number =>
    [...ports].reduce((total, port) => total + port.stats()[key], 0);
  return [
    gauge('neurovisor_requests_in_flight', 'Inference requests in flight.', sum('inFlight')),
    gauge('neurovisor_bridge_connections', 'Open connections of guests.', sum('connections')),
    gauge('neurovisor_bridge_body_bytes', 'Memory held for request bodies.', sum('bodyBytes')),
  ];
}
