/** Events of a sandbox in answers. */
import { z } from 'zod';
import { endInfo, nearOom, oom, pressure } from '../../../sandbox/contract/schema/ending.ts';
import { packageEcosystem } from '../../../sandbox/contract/schema/packages.ts';
import { count, ms, sandboxId, wallMs } from '../../../sandbox/contract/schema/values.ts';
import type { SandboxTimedEvent } from '../../../sandbox/plane/event-journal.ts';

/** An event of one type, as a schema of its own. */
const event = <Id extends string, Shape extends z.core.$ZodLooseShape>(id: Id, shape: Shape) =>
  z
    .object({ ...shape, sandbox: sandboxId, seq: count.describe('Sequence number, from 1.'), atMs: wallMs })
    .meta({ id });

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
      action: z.enum(['warn', 'pause', 'snapshot', 'webhook', 'grow', 'resume']),
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
    event('AdoptedEvent', {
      type: z.literal('adopted').describe('Another daemon holds the sandbox now; connections to its programs ended.'),
      gapMs: ms.nullable().describe('How long none held it.'),
    }),
    event('EndEvent', { type: z.literal('end'), end: endInfo }),
  ])
  .meta({ id: 'SandboxEvent' });
