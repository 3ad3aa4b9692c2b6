import type { Clock } from '../../base/clock.ts';
import type { FairShare } from '../../base/fairness/fair-share.ts';
import type { LoopTime } from '../../base/fairness/loop-time.ts';
import type { Log } from '../../base/log.ts';
import type { Tracer } from '../../base/trace/trace.ts';
import type { AdmissionContext } from './admission.ts';
import type { BodyChecker } from './body/body-checker.ts';
import type { BridgeMetrics } from './bridge-metrics.ts';
import type { ContentKeeping } from './content/content.ts';
import type { TakeTraces } from './guest-traces.ts';
import type { KeptAnswers } from './kept-answers.ts';
import type { BridgeLimits } from './limits.ts';
import type { PortRecords } from './record/port-records.ts';
import type { SpokenApis } from './request-form.ts';
import type { ResponseCache } from './response-cache/response-cache.ts';
import type { Dispatcher } from './routing/dispatcher.ts';
import type { ModelNames } from './routing/model-names.ts';
import type { PortTape } from './tape/tape.ts';
import type { Catalog } from './upstream/catalog.ts';
import type { UpstreamClient } from './upstream/client.ts';
import type { UsageRecord } from './usage.ts';

export interface ExchangeContext extends AdmissionContext {
  readonly limits: BridgeLimits;
  readonly checker: BodyChecker;
  readonly bodyTime: LoopTime;
  readonly traceTime: LoopTime;
  /** Memory for bodies of all sandboxes, in bytes. */
  readonly memory: FairShare;
  readonly kept: KeptAnswers;
  readonly models: ModelNames;
  readonly dispatcher: Dispatcher;
  readonly client: UpstreamClient;
  readonly catalog: Catalog;
  readonly clock: Clock;
  readonly log: Log;
  readonly onUsage: (usage: UsageRecord) => void;
  readonly records: PortRecords;
  readonly content: ContentKeeping;
  readonly metrics: BridgeMetrics;
  readonly tracer: Tracer;
  /** Undefined if guests' own traces are not accepted. */
  readonly takeTraces: TakeTraces | undefined;
  /** Undefined if requests are neither recorded nor answered from a cassette. */
  readonly tape: PortTape | undefined;
  readonly cache: ResponseCache;
  readonly cacheScopeOf: (sandboxId: string) => string | null;
  readonly modelsOf: (tenant: string | null) => readonly string[] | undefined;
  readonly apis: SpokenApis;
}
