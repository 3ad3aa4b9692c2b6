/** Bodies of answers. */
import { z } from 'zod';
import type { ChannelStats } from '../../base/channel.ts';
import type { UsageRecord } from '../../bridge/bridge.ts';
import type { FileEntry, GuestInfo, ProcessInfo } from '../../guest/guest.ts';
import type {
  ForkResult,
  HostInfo,
  LogChunk,
  PoolInfo,
  SandboxInfo,
  SnapshotInfo,
} from '../../sandbox/control.ts';
import { END_CAUSES, type EndInfo, type SandboxLogs } from '../../sandbox/ending.ts';
import type { TimedEvent } from '../../sandbox/events.ts';
import type { SandboxLoads } from '../../sandbox/plane/load.ts';
import type { SandboxState } from '../../sandbox/vm/lifecycle.ts';
import type { ErrorBody } from '../errors.ts';
import {
  count,
  diskLimits,
  ms,
  networkLimits,
  networkMode,
  onMemoryPressure,
  onTimeout,
  sandboxId,
  status,
  wallMs,
} from './fields.ts';

const timings = z.object({
  origin: z.enum(['boot', 'clone']),
  prepareMs: ms.describe('Directory, disk, sockets; of a clone also its RAM.'),
  vmmMs: ms.describe('VMM process started until guest code runs.'),
  kernelMs: ms.describe('Until the first process; 0 in a clone.'),
  agentMs: ms.describe('Until the agent is confirmed.'),
  totalMs: ms,
});

const victim = z.object({
  pid: count,
  name: z.string(),
  rssBytes: count.describe('That it had in memory.'),
});
const source = z.enum(['guest', 'host']).describe('Whose kernel says so.');
const amount = {
  source,
  memoryBytes: count,
  limitBytes: count.describe('Where the kernel kills; 0: not known.'),
};
const pressure = z.object({
  type: z.literal('pressure'),
  ...amount,
  some: z
    .number()
    .describe('Percent of the last 10 s in which some programs stood still for memory.'),
  full: z.number().describe('The same of all programs.'),
});
const nearOom = z.object({ type: z.literal('near_oom'), ...amount });
const oom = { source, victim: victim.nullable(), detail: z.string() };

const lastMarks = {
  lastPressure: z
    .discriminatedUnion('type', [
      pressure.extend({ atMs: wallMs }),
      nearOom.extend({ atMs: wallMs }),
    ])
    .nullable(),
  lastOom: z.object({ ...oom, atMs: wallMs }).nullable(),
};

const endInfo: z.ZodType<EndInfo> = z
  .object({
    cause: z.enum(END_CAUSES),
    detail: z.string(),
    atMs: wallMs,
    evidence: z.object({
      exitStatus: z.number().nullable().describe('Of the VMM.'),
      signal: z.string().nullable(),
      ...lastMarks,
      lastViolation: z
        .object({
          count: count.describe('Of this VMM.'),
          syscall: z.number(),
          name: z.string().nullable(),
          address: z.string().nullable(),
          action: z.enum(['refused', 'logged']),
          atMs: wallMs,
        })
        .nullable()
        .describe('The last system call that the filter of the VMM refused or logged.'),
    }),
  })
  .meta({ id: 'End' });

const stamp = { seq: count.describe('From 1.'), atMs: wallMs };
/** One line of the event stream. */
export const timedEvent: z.ZodType<TimedEvent> = z
  .discriminatedUnion('type', [
    pressure.extend(stamp),
    nearOom.extend(stamp),
    z.object({ type: z.literal('oom'), ...oom, ...stamp }),
    z.object({
      type: z.literal('security'),
      source: z.literal('host'),
      what: z.enum(['vmm_exec']).describe('The VMM has executed a program, which none does.'),
      detail: z.string(),
      ...stamp,
    }),
    z.object({
      type: z
        .enum(['disk_full', 'disk_error'])
        .describe(
          'disk_full: the host has no room, and the sandbox is paused; disk_error: its guest saw EIO.',
        ),
      path: z.string().describe('Of its disk, on the host.'),
      freeBytes: count.nullable(),
      ...stamp,
    }),
    z.object({ type: z.literal('dropped'), count, ...stamp }),
    z.object({
      type: z.literal('action'),
      action: z.enum(['warn', 'pause', 'snapshot', 'webhook', 'grow']),
      ok: z.boolean(),
      detail: z.string(),
      ...stamp,
    }),
    z.object({
      type: z.literal('resized'),
      by: z.enum(['pressure', 'owner']),
      fromMib: count,
      toMib: count,
      durationMs: ms,
      ...stamp,
    }),
    z.object({ type: z.literal('end'), end: endInfo, ...stamp }),
  ])
  .meta({ id: 'SandboxEvent' });

export const sandboxLogs: z.ZodType<SandboxLogs> = z
  .object({
    console: z.string().describe('Its serial console: the last 64 KiB.'),
    vmm: z.string().describe('Of the VMM: the last lines.'),
  })
  .meta({ id: 'Logs' });

export const logChunk: z.ZodType<LogChunk> = z
  .object({
    source: z.enum(['console', 'vmm']),
    text: z.string(),
    skippedBytes: count.describe('Before it, that came faster than they were read.'),
  })
  .meta({ id: 'LogChunk' });

export const sandboxInfo: z.ZodType<SandboxInfo> = z
  .object({
    id: sandboxId,
    status,
    pausedTo: z.enum(['memory', 'disk']).nullable(),
    cpus: count,
    memoryMib: count.describe('What its guest has now.'),
    memoryMaxMib: count
      .nullable()
      .describe('What it can be given; null: its memory stays as it is.'),
    diskMib: count,
    metadata: z.record(z.string(), z.string()),
    origin: z
      .enum(['pool', 'clone', 'boot', 'snapshot', 'fork'])
      .describe('How it came to be: out of a pool, as a clone of a template, by a boot, ….'),
    snapshot: z.string().nullable().describe('The snapshot that it goes on from.'),
    parent: z.string().nullable().describe('The sandbox that it is a fork of.'),
    accelerator: z.string(),
    createdAtMs: wallMs,
    endsAtMs: wallMs.nullable().describe('When its time is over; null: no limit, or paused.'),
    onTimeout,
    idleTimeoutMs: ms.nullable(),
    autoResume: z.boolean(),
    onMemoryPressure,
    diskLimits,
    network: z
      .object({
        mode: networkMode,
        allow: z.array(z.string()),
        deny: z.array(z.string()),
        limits: networkLimits,
        address: z.string().nullable().describe('IPv4; null while it has no network card.'),
        gatewayUse: z
          .object({
            allowed: z.number().describe('TLS connections and HTTP requests that passed.'),
            refused: z.record(z.string(), z.number()).describe('Those that did not, by reason.'),
            destinations: z
              .array(z.object({ name: z.string(), bytesMax: z.number(), bytesUsed: z.number() }))
              .describe('Of limits by name.'),
          })
          .nullable()
          .describe('What passed by name, and what did not; null while it has no network card.'),
      })
      .nullable()
      .describe('What it may connect to; null: no network.'),
    secrets: z
      .array(
        z.object({
          name: z.string(),
          hosts: z.array(z.string()),
          held: z.boolean().describe('False: its value has to be given again.'),
        }),
      )
      .describe('What is put into requests to these hosts; without values.'),
    timings: timings.nullable().describe('Of its last start; null out of the pool.'),
    readyMs: ms.nullable().describe('Asked for until ready, milliseconds.'),
    end: endInfo.nullable().describe('Why it ended; null while it has not.'),
  })
  .meta({ id: 'Sandbox' });
export const sandboxList = z.object({ sandboxes: z.array(sandboxInfo) });

export const snapshotInfo: z.ZodType<SnapshotInfo> = z
  .object({
    id: z.string(),
    name: z.string().nullable(),
    sandbox: z.string().describe('The sandbox that it was taken of.'),
    cpus: count,
    memoryMib: count,
    diskMib: count,
    createdAtMs: wallMs,
    bytes: count.describe('On the disk.'),
    current: z.boolean().describe('False: it can not be started on this host as it is now.'),
  })
  .meta({ id: 'Snapshot' });
export const snapshotList = z.object({ snapshots: z.array(snapshotInfo) });

const forkResult: z.ZodType<ForkResult> = z
  .discriminatedUnion('ok', [
    z.object({ ok: z.literal(true), sandbox: sandboxInfo }),
    z.object({ ok: z.literal(false), code: z.string(), message: z.string() }),
  ])
  .meta({ id: 'ForkResult', description: 'Each fork is ready or has failed on its own.' });
export const forkList = z.object({ forks: z.array(forkResult) });

export const poolInfo: z.ZodType<PoolInfo> = z
  .object({
    template: z.string(),
    spec: z.object({
      cpus: count,
      memoryMib: count,
      memoryMaxMib: count.exactOptional(),
      diskMib: count,
      warm: z.array(z.string()),
    }),
    min: count,
    max: count,
    target: count.describe('Members that are wanted now, by demand.'),
    ready: count,
    starting: count,
    hits: count.describe('Requests that found a member.'),
    misses: count.describe('Requests that found none.'),
    discarded: count.describe('Members that died or were unwell, and were not handed out.'),
  })
  .meta({ id: 'Pool' });
export const poolList = z.object({ pools: z.array(poolInfo) });

export const hostInfo: z.ZodType<HostInfo> = z
  .object({
    version: z.string(),
    vmm: z.string(),
    accelerator: z.string(),
    upstream: z.string().describe('The model server.'),
    models: z.array(z.string()).nullable().describe('What it offers now; null: it does not say.'),
    sandboxes: count,
    paused: count,
    queued: count.describe('Requests that wait for their turn.'),
    memoryAvailableMib: z.number(),
    startedAtMs: wallMs,
  })
  .meta({ id: 'Host' });

const packetTimes = z.object({
  count: count.describe('Packets whose time was measured.'),
  p50Ns: z.number().nullable(),
  p95Ns: z.number().nullable(),
});

const VM_STATES: Readonly<Record<SandboxState, true>> = {
  creating: true,
  booting: true,
  ready: true,
  paused: true,
  saving: true,
  stopping: true,
  gone: true,
  failed: true,
};

export const sandboxLoads: z.ZodType<SandboxLoads> = z
  .object({
    atMs: wallMs,
    sandboxes: z.array(
      z.object({
        id: sandboxId,
        state: z.enum(Object.keys(VM_STATES) as SandboxState[]),
        memoryBytes: count.nullable().describe('Of the host, held by its VM; null: unknown.'),
        modelRequests: count.describe('Requests to the model under way.'),
        tokens: count.describe('Of prompts and answers.'),
        ...lastMarks,
        packets: z
          .object({ peer: packetTimes, guest: packetTimes, forward: packetTimes })
          .optional()
          .describe('Of its network card; absent: not measured.'),
        syscalls: z
          .record(z.string(), count)
          .optional()
          .describe('Of its VMM, by call; absent: not counted.'),
      }),
    ),
    memoryPressure: z
      .object({ some: z.number(), full: z.number() })
      .nullable()
      .describe(
        'Share of the last 10 s in which some, or all, tasks of the host waited for memory.',
      ),
    events: z
      .array(z.intersection(timedEvent, z.object({ sandbox: sandboxId })))
      .describe('The newest of all sandboxes, oldest first: 64, and 16 of one.'),
  })
  .meta({ id: 'Loads' });

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
    estimated: z.boolean().describe('The counts are ours, not the model server’s.'),
    stream: z.boolean(),
    status: z.number(),
    outcome: z.enum(['ok', 'cancelled', 'upstream-error', 'upstream-lost']),
    timings: z.object({ queueMs: ms, ttftMs: ms.nullable(), totalMs: ms }),
  })
  .meta({ id: 'Usage', description: 'One request to the model.' });
export const usageList = z.object({ usage: z.array(usageRecord) });

export const guestInfo: z.ZodType<GuestInfo> = z
  .object({
    agentVersion: z.string(),
    pythonVersion: z.string(),
    kernelToInitMs: ms.nullable(),
    initToAgentMs: ms.nullable(),
    agentToHelloMs: ms,
    helloMs: ms,
    readyMs: ms,
    overlay: z.enum(['disk', 'memory', 'none']),
    cgroup: z.boolean(),
    problems: z.array(z.string()),
  })
  .meta({ id: 'Guest' });

const processInfo: z.ZodType<ProcessInfo> = z
  .object({
    pid: count,
    kind: z.enum(['exec', 'python']),
    argv: z.array(z.string()),
    cwd: z.string(),
    user: z.string(),
    tag: z.string().nullable(),
    pty: z.boolean(),
    detached: z.boolean(),
    ageMs: ms,
  })
  .meta({ id: 'Process' });
export const processList = z.object({ processes: z.array(processInfo) });

export const execResult = z
  .object({
    exitCode: z.number().nullable().describe('Null when a signal ended it.'),
    signal: z.string().nullable(),
    timedOut: z.boolean(),
    oomKilled: z.boolean().describe('The guest’s kernel killed it for want of memory.'),
    oomVictim: victim.nullable().describe('The process of it that was killed for want of memory.'),
    truncated: z.boolean().describe('Output was dropped.'),
    stdout: z.string(),
    stderr: z.string(),
    durationMs: ms,
  })
  .meta({ id: 'ExecResult' });

export const fileEntry: z.ZodType<FileEntry> = z
  .object({
    name: z.string(),
    path: z.string(),
    type: z.enum(['file', 'directory', 'symlink', 'other']),
    bytes: count,
    mode: z.number().describe('Permission bits, as a decimal number.'),
    owner: z.string(),
    group: z.string(),
    modifiedMs: wallMs,
    symlinkTarget: z.string().nullable(),
  })
  .meta({ id: 'FileEntry' });
export const fileList = z.object({ entries: z.array(fileEntry) });

export const health = z.object({ status: z.literal('ok') });

export const errorBody: z.ZodType<ErrorBody> = z
  .object({
    error: z.object({
      code: z.string().describe('Stable; for programs.'),
      message: z.string(),
      remedy: z.string().nullable().describe('What a person can do.'),
      retryAfterMs: ms.optional().describe('When a next try is likely to succeed.'),
    }),
  })
  .meta({
    id: 'Error',
    examples: [
      {
        error: {
          code: 'not_found',
          message: 'sandbox abcdefghij0123456789: there is none',
          remedy: null,
        },
      },
    ],
  });
