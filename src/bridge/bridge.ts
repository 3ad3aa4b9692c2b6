/**
 * The inference bridge: guests talk to a model server on the host, and to nothing else, through it.
 *
 *      guest                                  host
 *     ┌──────────────────────────┐           ┌──────────────────────────────────────────────────┐
 *     │ client ─► 127.0.0.1:11434│  vsock    │ <channel>_1025 ─► port ─► exchange ─► upstream     │
 *     │           (forwarder)    │══ 1025 ══►│   (identity)      limits   policy      (key added) │
 *     └──────────────────────────┘           └──────────────────────────────────────────────────┘
 *
 * A *port* is one unix socket, and the socket is the caller: whatever a request says about who sent it is
 * not looked at (R-IPC-8). A port serves HTTP/1.1 in the dialects of `dialect/`. Each request is an
 * *exchange*: parsed within limits, judged by the sandbox's policy, sent to the upstream with the host's
 * key instead of the guest's, and its answer is passed back byte by byte as it comes.
 *
 * What to know before changing something here:
 * - Bodies are JSON that two parsers read, ours and the upstream's. `json-body.ts` makes sure that they
 *   see the same, and edits in place: what policy does not change goes through as it came.
 * - Streams are server-sent events. The bridge asks every upstream for the usage event, counts, and takes
 *   it out again for clients that did not ask. It says `: keep-alive` into silences.
 * - Errors are told in the dialect. Once a stream has begun they come as an event; an answer that breaks
 *   off never looks complete.
 * - Nothing a guest sends becomes part of a URL, a header name or a path on the host.
 *
 * Pure: limits, refusal, headers, address, json-body, media, policy, sse, usage, dialect/.
 * Input and output: listener, exchange, body, reply, relay, upstream, catalog, detect.
 */
import type { Clock } from '../base/clock.ts';
import type { Log } from '../base/log.ts';
import { type Metric, single } from '../base/metrics.ts';
import { passiveTracer, type Tracer } from '../trace/trace.ts';
import type { UpstreamTarget } from './address.ts';
import { BodyMemory } from './body.ts';
import { BridgeMetrics } from './bridge-metrics.ts';
import { Catalog } from './catalog.ts';
import { openaiDialect } from './dialect/openai.ts';
import { BridgeError } from './errors.ts';
import type { TakeTraces } from './guest-traces.ts';
import { BRIDGE_LIMITS } from './limits.ts';
import { Listener, type PortStats } from './listener.ts';
import type { BridgePolicy } from './policy.ts';
import { UpstreamClient } from './upstream.ts';
import type { UsageRecord } from './usage.ts';

export type { UpstreamTarget } from './address.ts';
export type { PortStats } from './listener.ts';
export type { BridgePolicy } from './policy.ts';
export type { UsageRecord } from './usage.ts';

export interface BridgeOptions {
  /**
   * Where requests go; asked for each of them, so it may change. Requests wait for it, streaming ones
   * with keep-alives. If it rejects they get 503, with the error's remedy.
   */
  readonly upstream: () => Promise<UpstreamTarget>;
  readonly clock: Clock;
  readonly log: Log;
  /** Called once for each request that was sent to the upstream, when it is over. */
  readonly onUsage?: (usage: UsageRecord) => void;
  /** Absent: nothing is traced, and a guest's own `traceparent` goes to the upstream as it is. */
  readonly tracer?: Tracer;
  /** Spans that a guest has made. Absent: `/otlp/v1/traces` is no route. */
  readonly takeTraces?: TakeTraces | undefined;
}

export interface Caller {
  readonly sandboxId: string;
  /** Made by `attach`, removed by `close`. Its directory must be private to the host. */
  readonly socketPath: string;
  readonly policy?: BridgePolicy;
}

export interface Bridge {
  /**
   * Listens at the caller's socket; every request there is the caller's.
   * @throws BridgeError `listen_failed`, `closed`
   */
  attach(caller: Caller): Promise<BridgePort>;
  /** Of all its ports, those that are closed included. */
  metrics(): readonly Metric[];
  /** Closes all ports. Idempotent. */
  close(): Promise<void>;
}

export interface BridgePort {
  stats(): PortStats;
  /** For requests that come from now on; `limits` stay those of `attach`. */
  setPolicy(policy: BridgePolicy): void;
  /** Breaks off what is in flight, towards the guest and towards the upstream. Idempotent. */
  close(): Promise<void>;
}

export function createBridge(options: BridgeOptions): Bridge {
  const { upstream, clock, log } = options;
  const client = new UpstreamClient(clock);
  const catalog = new Catalog({ client, clock, log, limits: BRIDGE_LIMITS });
  const ports = new Set<BridgePort>();
  const metrics = new BridgeMetrics();
  const { tracer = passiveTracer() } = options;
  let closing: Promise<void> | undefined;
  return {
    async attach(caller) {
      if (closing !== undefined) throw new BridgeError('closed', 'the bridge is closed');
      const { sandboxId, socketPath, policy = {} } = caller;
      const limits = { ...BRIDGE_LIMITS, ...policy.limits };
      const memory = new BodyMemory(limits.bodyTotalBytesMax);
      const onUsage = options.onUsage ?? ((): void => undefined);
      const dialect = openaiDialect;
      const listener = new Listener({
        ...{ sandboxId, policy, limits, dialect, memory, upstream, client, catalog, clock, log },
        ...{ onUsage, metrics, tracer, takeTraces: options.takeTraces },
      });
      await listener.listen(socketPath);
      let closed: Promise<void> | undefined;
      const port: BridgePort = {
        stats: () => listener.stats(),
        setPolicy: (changed) => listener.setPolicy(changed),
        close() {
          ports.delete(port);
          closed ??= listener.close();
          return closed;
        },
      };
      ports.add(port);
      return port;
    },
    metrics: () => [...metrics.list(), ...portGauges(ports)],
    close() {
      closing ??= Promise.all([...ports].map((port) => port.close())).then(() => client.close());
      return closing;
    },
  };
}

function portGauges(ports: ReadonlySet<BridgePort>): readonly Metric[] {
  const sum = (key: 'inFlight' | 'connections' | 'bodyBytes') => (): number =>
    [...ports].reduce((total, port) => total + port.stats()[key], 0);
  return [
    single(
      'gauge',
      {
        name: 'neurovisor_requests_in_flight',
        help: 'Requests that guests wait for.',
        unit: null,
      },
      sum('inFlight'),
    ),
    single(
      'gauge',
      { name: 'neurovisor_bridge_connections', help: 'Connections of guests.', unit: null },
      sum('connections'),
    ),
    single(
      'gauge',
      {
        name: 'neurovisor_bridge_body_bytes',
        help: 'Memory that is held for bodies of requests.',
        unit: 'bytes',
      },
      sum('bodyBytes'),
    ),
  ];
}
