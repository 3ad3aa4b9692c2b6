/** The response body of `GET /v1/loads`. */
import { z } from 'zod';
import { lastMarks } from '../../../sandbox/contract/schema/ending.ts';
import { count, sandboxId, wallMs } from '../../../sandbox/contract/schema/values.ts';
import type { SandboxLoad, SandboxLoads } from '../../../sandbox/plane/load.ts';
import type { SandboxState } from '../../../sandbox/vm/lifecycle.ts';
import { timedEvent } from './event-answers.ts';

const packetTimes = z
  .object({ count: count.describe('Measured packets.'), p50Ns: z.number().nullable(), p95Ns: z.number().nullable() })
  .meta({ id: 'PacketTimes' });

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

const sandboxLoad: z.ZodType<SandboxLoad> = z
  .object({
    id: sandboxId,
    state: z.enum(Object.keys(VM_STATES) as SandboxState[]),
    memoryBytes: count.nullable().describe('Host memory of the VM alone, which ends with it; null: unknown.'),
    modelRequests: count.describe('Model requests in flight.'),
    tokens: count.describe('Tokens of prompts and completions.'),
    ...lastMarks,
    packets: z
      .object({ peer: packetTimes, guest: packetTimes, forward: packetTimes })
      .meta({ id: 'NetworkTimes' })
      .optional()
      .describe('Latency of the network card’s packets; absent: not measured.'),
    syscalls: z.record(z.string(), count).optional().describe('System calls of the VMM by name; absent: not counted.'),
  })
  .meta({ id: 'SandboxLoad' });

export const sandboxLoads: z.ZodType<SandboxLoads> = z
  .object({
    atMs: wallMs,
    sandboxes: z.array(sandboxLoad),
    sharedMemoryBytes: count.nullable().describe('RAM that VMs share, counted once; null: not shown to a tenant.'),
    memoryPressure: z
      .object({ some: z.number(), full: z.number() })
      .meta({ id: 'MemoryPressure' })
      .nullable()
      .describe('Share of the last 10 s in which some, or all, tasks of the host waited for memory (PSI).'),
    events: z
      .array(timedEvent)
      .describe('The newest events of all sandboxes, oldest first: at most 64, at most 16 per sandbox.'),
  })
  .meta({ id: 'Loads' });
