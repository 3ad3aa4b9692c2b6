/** Events of a sandbox, and its end, in answers. */
import { z } from 'zod';
import { END_CAUSES, type EndInfo } from '../../../sandbox/contract/ending.ts';
import { packageEcosystem } from '../../../sandbox/contract/schema/packages.ts';
import type { SandboxTimedEvent } from '../../../sandbox/plane/recent-events.ts';
import { count, ms, sandboxId, wallMs } from './fields.ts';

export const victim = z
  .object({ pid: count, name: z.string(), rssBytes: count.describe('Its resident memory.') })
  .meta({ id: 'OomVictim' });

export const source = z
  .enum(['guest', 'host'])
  .meta({ id: 'MemorySource', description: 'The kernel that reports it.' });

const amount = {
  source,
  memoryBytes: count,
  limitBytes: count.describe('Limit at which the kernel kills; 0: unknown.'),
};

const pressure = {
  type: z.literal('pressure'),
  ...amount,
  some: z.number().describe('Percent of the last 10 s in which some programs waited for memory (PSI).'),
  full: z.number().describe('The same for all programs.'),
};

const nearOom = { type: z.literal('near_oom'), ...amount };

const oom = { source, victim: victim.nullable(), detail: z.string() };

const atMs = wallMs;

const memoryMark = z
  .discriminatedUnion('type', [
    z.object({ ...pressure, atMs }).meta({ id: 'PressureMark' }),
    z.object({ ...nearOom, atMs }).meta({ id: 'NearOomMark' }),
  ])
  .meta({ id: 'MemoryMark', description: 'The last sign of memory pressure.' });

export const lastMarks = {
  lastPressure: memoryMark.nullable(),
  lastOom: z
    .object({ ...oom, atMs })
    .meta({ id: 'OomMark', description: 'The last OOM kill.' })
    .nullable(),
};

const lastViolation = z
  .object({
    count: count.describe('All violations of this VMM.'),
    syscall: z.number(),
    name: z.string().nullable(),
    address: z.string().nullable(),
    action: z.enum(['refused', 'logged']),
    atMs,
  })
  .meta({
    id: 'SyscallViolation',
    description: 'The last system call that the seccomp filter of the VMM refused or logged.',
  });

export const endInfo: z.ZodType<EndInfo> = z
  .object({
    cause: z.enum(END_CAUSES).meta({ id: 'EndCause' }),
    detail: z.string(),
    atMs,
    evidence: z
      .object({
        exitStatus: z.number().nullable().describe('Exit status of the VMM.'),
        signal: z.string().nullable(),
        ...lastMarks,
        lastViolation: lastViolation.nullable(),
      })
      .meta({ id: 'EndEvidence' }),
  })
  .meta({ id: 'End' });

/** An event of one type, as a schema of its own. */
const event = <Id extends string, Shape extends z.core.$ZodLooseShape>(id: Id, shape: Shape) =>
  z.object({ ...shape, sandbox: sandboxId, seq: count.describe('Sequence number, from 1.'), atMs }).meta({ id });

/** One event of a sandbox: a line of its stream, an entry of the load. */
export const timedEvent: z.ZodType<SandboxTimedEvent> = z
  .discriminatedUnion('type', [
    event('PressureEvent', pressure),
    event('NearOomEvent', nearOom),
    event('OomEvent', { type: z.literal('oom'), ...oom }),
    event('SecurityEvent', {
      type: z.literal('security'),
      source: z.literal('host'),
      what: z.literal('vmm_exec').describe('The VMM executed a program, which must never happen.'),
      detail: z.string(),
    }),
    event('DiskEvent', {
      type: z
        .enum(['disk_full', 'disk_error'])
        .describe('disk_full: the host’s disk is full and the sandbox is paused; disk_error: the guest got EIO.'),
      path: z.string().describe('The disk’s file on the host.'),
      freeBytes: count.nullable(),
    }),
    event('DroppedEvent', { type: z.literal('dropped'), count }),
    event('ActionEvent', {
      type: z.literal('action'),
      action: z.enum(['warn', 'pause', 'snapshot', 'webhook', 'grow']),
      ok: z.boolean(),
      detail: z.string(),
    }),
    event('ResizedEvent', {
      type: z.literal('resized'),
      by: z.enum(['pressure', 'owner']),
      fromMib: count,
      toMib: count,
      durationMs: ms,
    }),
    event('PackageEvent', {
      type: z.literal('package'),
      ecosystem: packageEcosystem,
      name: z.string(),
      version: z.string().describe('Empty: a page, or not known.'),
      file: z.string().describe('Empty: the page of the name.'),
      outcome: z.string().describe('`ok`, or why not: `denied`, `too_young`, `not_locked`, ….'),
      digest: z.string().describe('`sha256:…`; empty: a page, or not known.'),
      bytes: count.describe('Sent to the sandbox.'),
      cached: z.boolean().describe('True: no index was asked.'),
    }),
    event('EndEvent', { type: z.literal('end'), end: endInfo }),
  ])
  .meta({ id: 'SandboxEvent' });
