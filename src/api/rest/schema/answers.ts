/** Response bodies. The types are the control plane's, so a field added there does not compile until it is added here. */
import { z } from 'zod';
import type { ChannelStats } from '../../../base/channel.ts';
import type { SharedBudget } from '../../../base/request/model-limits.ts';
import type { UsageRecord } from '../../../inference/bridge/bridge.ts';
import type {
  ForkResult,
  HostInfo,
  LogChunk,
  LongTurn,
  PoolInfo,
  SnapshotInfo,
  StoredSecretInfo,
  VolumeInfo,
} from '../../../sandbox/contract/control.ts';
import type { SandboxLogs } from '../../../sandbox/contract/ending.ts';
import { templateSpec } from '../../../sandbox/contract/schema/contents.ts';
import { budgetUse, windowedBudget } from '../../../sandbox/contract/schema/models.ts';
import { sandboxInfo } from '../../../sandbox/contract/schema/sandbox.ts';
import { count, ms, wallMs } from '../../../sandbox/contract/schema/values.ts';
import type { ErrorBody } from '../errors.ts';

export const sandboxLogs: z.ZodType<SandboxLogs> = z
  .object({
    console: z.string().describe('Last 64 KiB of the serial console.'),
    vmm: z.string().describe('Last lines of the VMM.'),
  })
  .meta({ id: 'Logs' });

export const logChunk: z.ZodType<LogChunk> = z
  .object({
    source: z.enum(['console', 'vmm']),
    text: z.string(),
    skippedBytes: count.describe('Bytes skipped before this chunk because the reader was slow.'),
  })
  .meta({ id: 'LogChunk' });

export const sandboxList = z.object({ sandboxes: z.array(sandboxInfo) }).meta({ id: 'SandboxList' });

export const snapshotInfo: z.ZodType<SnapshotInfo> = z
  .object({
    id: z.string(),
    name: z.string().nullable(),
    sandbox: z.string().describe('The sandbox it was created from.'),
    annotations: z.record(z.string(), z.string()).describe('Those of its sandbox.'),
    cpus: count,
    memoryMib: count,
    diskMib: count,
    createdAtMs: wallMs,
    bytes: count.describe('Space on disk.'),
    diskOnly: z.boolean().describe('It has no memory: sandboxes boot from its disk.'),
    current: z.boolean().describe('False: unusable with the host’s current kernel, image, VMM or processor.'),
    madeBy: z.string().nullable().describe('Version and commit of the NeuroVisor that made it.'),
  })
  .meta({ id: 'Snapshot' });
export const snapshotList = z.object({ snapshots: z.array(snapshotInfo) }).meta({ id: 'SnapshotList' });

export const volumeInfo: z.ZodType<VolumeInfo> = z
  .object({
    id: z.string(),
    name: z.string(),
    annotations: z.record(z.string(), z.string()).describe('What the interface that created it keeps with it.'),
    sizeMib: count.describe('What fits into it, MiB, file system included.'),
    bytes: count.describe('Space on disk.'),
    createdAtMs: wallMs,
    attached: z
      .array(z.object({ sandbox: z.string(), readOnly: z.boolean() }).meta({ id: 'VolumeUse' }))
      .describe('Sandboxes that have it, also paused ones.'),
  })
  .meta({ id: 'Volume' });
export const volumeList = z.object({ volumes: z.array(volumeInfo) }).meta({ id: 'VolumeList' });

export const storedSecretInfo: z.ZodType<StoredSecretInfo> = z
  .object({
    name: z.string(),
    createdAtMs: wallMs,
    updatedAtMs: wallMs.describe('When the value was last replaced.'),
    sandboxes: z.array(z.string()).describe('Sandboxes that use it, also paused ones.'),
  })
  .meta({ id: 'StoredSecret' });
export const storedSecretList = z.object({ secrets: z.array(storedSecretInfo) }).meta({ id: 'StoredSecretList' });

const forkResult: z.ZodType<ForkResult> = z
  .discriminatedUnion('ok', [
    z.object({ ok: z.literal(true), sandbox: sandboxInfo }).meta({ id: 'ForkSuccess' }),
    z.object({ ok: z.literal(false), code: z.string(), message: z.string() }).meta({ id: 'ForkFailure' }),
  ])
  .meta({ id: 'ForkResult', description: 'Each fork succeeds or fails on its own.' });
export const forkList = z.object({ forks: z.array(forkResult) }).meta({ id: 'ForkList' });

export const poolInfo: z.ZodType<PoolInfo> = z
  .object({
    template: z.string().describe('Key of the template.'),
    name: z.string().nullable().describe('Name of the template that the pool was set with.'),
    spec: templateSpec,
    min: count,
    max: count,
    target: count.describe('Members wanted now, by demand.'),
    ready: count,
    starting: count,
    hits: count.describe('Requests served from the pool.'),
    misses: count.describe('Requests that found the pool empty.'),
    discarded: count.describe('Members that died or did not respond.'),
  })
  .meta({ id: 'Pool' });
export const poolList = z.object({ pools: z.array(poolInfo) }).meta({ id: 'PoolList' });

const sharedBudget: z.ZodType<SharedBudget> = z
  .object({
    tenant: z.string().nullable().describe('Whose sandboxes share it; null: all sandboxes of the host.'),
    limits: windowedBudget,
    used: budgetUse.nullable().describe('In the window of the last use; null: nothing yet.'),
  })
  .meta({ id: 'SharedModelBudget', description: 'A budget that sandboxes share.' });

const longTurn: z.ZodType<LongTurn> = z
  .object({
    atMs: wallMs,
    ms,
    cpuMs: ms.describe('Far less than `ms`: the process had to wait.'),
    place: z.string().nullable().describe('Function and position in the code; null: none was seen.'),
  })
  .meta({ id: 'LongTurn', description: 'A turn of the event loop, in which nobody else was served.' });

export const hostInfo: z.ZodType<HostInfo> = z
  .object({
    version: z.string(),
    vmm: z.string(),
    vmmReason: z.string().describe('Why this VMM was chosen.'),
    memorySharing: z.string().describe('Whose sandboxes share memory, or why none does.'),
    accelerator: z.string(),
    upstream: z.string().describe('The model server.'),
    models: z.array(z.string()).nullable().describe('Models it offers now; null: unknown.'),
    sandboxes: count,
    paused: count,
    queued: count.describe('Requests waiting in the start queue.'),
    starting: count.describe('Creations and forks under way.'),
    cordoned: z.boolean().describe('The operator lets it start no new sandboxes.'),
    memoryAvailableMib: z.number(),
    startedAtMs: wallMs,
    modelBudgets: z
      .array(sharedBudget)
      .describe('For the operator those of the host and of all tenants, for a tenant its own.'),
    longTurns: z
      .array(longTurn)
      .describe('For the operator the longest turns of the event loop in the last day; over 50 ms, longest first.'),
  })
  .meta({ id: 'Host' });

export const channelStats: z.ZodType<ChannelStats> = z
  .object({
    bytesGuestToHost: count,
    bytesHostToGuest: count,
    connectionsOpened: count,
    connectionsOpen: count,
    connectionsRefused: count,
    throttledMsGuestToHost: ms,
    throttledMsHostToGuest: ms,
    protocolErrors: count,
  })
  .meta({ id: 'ChannelStats' });

const usageRecord: z.ZodType<UsageRecord> = z
  .object({
    sandboxId: z.string(),
    model: z.string(),
    operation: z.string(),
    promptTokens: z.number(),
    completionTokens: z.number(),
    estimated: z.boolean().describe('Counted by the bridge, not reported by the model server.'),
    stream: z.boolean(),
    cached: z
      .literal(true)
      .exactOptional()
      .describe('Answered from the cache: no model server had the request, and it used no tokens.'),
    status: z.number(),
    outcome: z.enum(['ok', 'cancelled', 'upstream-error', 'upstream-lost']),
    timings: z.object({ queueMs: ms, ttftMs: ms.nullable(), totalMs: ms }).meta({ id: 'UsageTimings' }),
  })
  .meta({ id: 'Usage', description: 'One model request.' });
export const usageList = z.object({ usage: z.array(usageRecord) }).meta({ id: 'UsageList' });

export const health = z.object({ status: z.literal('ok') }).meta({ id: 'Health' });

export const errorBody: z.ZodType<ErrorBody> = z
  .object({
    error: z
      .object({
        code: z.string().describe('Stable code, for programs.'),
        message: z.string(),
        remedy: z.string().nullable().describe('How to fix it.'),
        retryAfterMs: ms.optional().describe('When to retry, milliseconds.'),
      })
      .meta({ id: 'ErrorDetail' }),
  })
  .meta({
    id: 'ErrorBody',
    examples: [{ error: { code: 'not_found', message: 'there is no sandbox abcdefghij0123456789', remedy: null } }],
  });
