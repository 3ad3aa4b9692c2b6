/** Response bodies. */
import { z } from 'zod';
import type { ChannelStats } from '../../../base/channel.ts';
import type { UsageRecord } from '../../../inference/bridge/bridge.ts';
import type {
  ForkResult,
  HostInfo,
  LogChunk,
  PoolInfo,
  SandboxInfo,
  SnapshotInfo,
} from '../../../sandbox/contract/control.ts';
import type { SandboxLogs } from '../../../sandbox/contract/ending.ts';
import type { ImageInfo } from '../../../sandbox/contract/environment.ts';
import { modelPolicy } from '../../../sandbox/contract/schema/models.ts';
import { networkLimits, networkMode, secretPlace } from '../../../sandbox/contract/schema/network.ts';
import { packageEcosystem } from '../../../sandbox/contract/schema/packages.ts';
import { diskLimits, onMemoryPressure, onTimeout } from '../../../sandbox/contract/schema/request.ts';
import type { TemplateSpec } from '../../../sandbox/contract/spec.ts';
import type { ErrorBody } from '../errors.ts';
import { endInfo } from './event-answers.ts';
import { count, modelUse, ms, pausedTo, pauseReason, sandboxId, sharedBudget, status, wallMs } from './fields.ts';

const timings = z
  .object({
    origin: z.enum(['boot', 'clone']),
    prepareMs: ms.describe('Directory, disk, sockets; for a clone, also its RAM.'),
    vmmMs: ms.describe('From the start of the VMM process until guest code runs.'),
    kernelMs: ms.describe('Until the first process; 0 in a clone.'),
    agentMs: ms.describe('Until the agent is confirmed.'),
    totalMs: ms,
  })
  .meta({ id: 'StartTimings' });

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

const gatewayUse = z
  .object({
    allowed: z.number().describe('Allowed TLS connections and HTTP requests.'),
    refused: z.record(z.string(), z.number()).describe('Refused ones, by reason.'),
    destinations: z
      .array(z.object({ name: z.string(), bytesMax: z.number(), bytesUsed: z.number() }).meta({ id: 'DestinationUse' }))
      .describe('Use of the limits by name.'),
  })
  .meta({ id: 'GatewayUse' });
const networkInfo = z
  .object({
    mode: networkMode,
    allow: z.array(z.string()),
    deny: z.array(z.string()),
    limits: networkLimits,
    address: z.string().nullable().describe('IPv4 address; null while there is no network card.'),
    gatewayUse: gatewayUse
      .nullable()
      .describe('What the gateway allowed and refused; null while there is no network card.'),
  })
  .meta({ id: 'Network' });
const packageInfo = z
  .object({
    ecosystems: z.array(packageEcosystem),
    allow: z.array(z.string()),
    deny: z.array(z.string()),
    minAgeMs: ms.nullable(),
    lockedFiles: count.nullable().describe('Files that the lock names; null: no lock.'),
  })
  .meta({ id: 'Packages' });
const secretInfo = z
  .object({
    name: z.string(),
    sets: z
      .string()
      .optional()
      .describe('The header field that the gateway sets; absent: the guest has a placeholder.'),
    hosts: z.array(z.string()),
    places: z.array(secretPlace).describe('Empty: the usual credential fields.'),
    held: z.boolean().describe('False: the value must be given again.'),
  })
  .meta({ id: 'SecretInfo' });

const ofImage = {
  user: z.string().describe('Of its programs, as the image names it; empty: root.'),
  workdir: z.string(),
  entrypoint: z.array(z.string()),
  cmd: z.array(z.string()),
  exposedPorts: z.array(z.string()).describe('Such as `80/tcp`.'),
  stopSignal: z.string().nullable(),
};
const imageInfo: z.ZodType<ImageInfo> = z
  .object({
    name: z.string().describe('The reference that was asked for.'),
    digest: z.string().describe('`sha256:…` of its manifest.'),
    ...ofImage,
  })
  .meta({ id: 'SandboxImage' });

export const sandboxInfo: z.ZodType<SandboxInfo> = z
  .object({
    id: sandboxId,
    status,
    pausedTo: pausedTo.nullable(),
    pauseReason: pauseReason
      .nullable()
      .describe('Of a paused sandbox; null: paused by request, or for its own memory or disk.'),
    cpus: count,
    memoryMib: count.describe('Memory of the guest now, MiB.'),
    memoryMaxMib: count.nullable().describe('Maximum the memory can grow to, MiB; null: it does not grow.'),
    diskMib: count,
    image: imageInfo.nullable().describe('Container image it runs in; null: the built-in system.'),
    metadata: z.record(z.string(), z.string()),
    annotations: z.record(z.string(), z.string()).describe('What the interface that created it keeps with it.'),
    origin: z
      .enum(['pool', 'clone', 'boot', 'snapshot', 'fork'])
      .meta({
        id: 'SandboxOrigin',
        description: 'How it was created: from a pool, as a clone of a template, by a boot, ….',
      }),
    snapshot: z.string().nullable().describe('The snapshot it was created from.'),
    template: z.string().nullable().describe('Name of the template it was created from; null: the request named none.'),
    parent: z.string().nullable().describe('The sandbox it was forked from.'),
    accelerator: z.string(),
    sharesMemory: z.boolean().nullable().describe('Until it is changed; null: there is no VM.'),
    createdAtMs: wallMs,
    endsAtMs: wallMs.nullable().describe('When its timeout expires; null: no timeout, or paused.'),
    onTimeout,
    idleTimeoutMs: ms.nullable(),
    autoResume: z.boolean(),
    onMemoryPressure,
    diskLimits,
    models: modelPolicy.describe('What it may ask a model.'),
    modelUse,
    packages: packageInfo.nullable().describe('Package policy; null: it may fetch no packages.'),
    network: networkInfo.nullable().describe('Network policy; null: no network.'),
    secrets: z.array(secretInfo).describe('Secrets that requests to these hosts get; never the values.'),
    timings: timings.nullable().describe('Phases of the last start; null if it came from a pool.'),
    readyMs: ms.nullable().describe('From the request until ready, milliseconds.'),
    end: endInfo.nullable().describe('Why it ended; null if it has not.'),
  })
  .meta({ id: 'Sandbox' });
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

const forkResult: z.ZodType<ForkResult> = z
  .discriminatedUnion('ok', [
    z.object({ ok: z.literal(true), sandbox: sandboxInfo }).meta({ id: 'ForkSuccess' }),
    z.object({ ok: z.literal(false), code: z.string(), message: z.string() }).meta({ id: 'ForkFailure' }),
  ])
  .meta({ id: 'ForkResult', description: 'Each fork succeeds or fails on its own.' });
export const forkList = z.object({ forks: z.array(forkResult) }).meta({ id: 'ForkList' });

/** What a template was made from. */
export const templateSpec: z.ZodType<TemplateSpec> = z
  .object({
    cpus: count,
    memoryMib: count,
    memoryMaxMib: count.exactOptional(),
    diskMib: count,
    warm: z.array(z.string()),
    requirements: z.array(z.string()).exactOptional().describe('Python packages.'),
    environment: z
      .object({
        image: z.string(),
        imageDigest: z.string(),
        digest: z.string().describe('`sha256:…` of its disk.'),
        env: z.record(z.string(), z.string()),
        ...ofImage,
      })
      .meta({ id: 'PoolEnvironment' })
      .exactOptional()
      .describe('Container image; absent: the built-in system.'),
    packagesMinAgeMs: ms.exactOptional(),
    start: z
      .object({ command: z.string(), ready: z.string(), readyTimeoutMs: ms })
      .meta({ id: 'StartCommand' })
      .exactOptional()
      .describe('The program that runs in every sandbox of the template.'),
    card: z.boolean().exactOptional().describe('True: the members have a network card, for requests with a network.'),
  })
  .meta({ id: 'PoolTemplate' });

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
    memoryAvailableMib: z.number(),
    startedAtMs: wallMs,
    modelBudgets: z
      .array(sharedBudget)
      .describe('For the operator those of the host and of all tenants, for a tenant its own.'),
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
