/** Why a sandbox ended, as it is shown. */
import { z } from 'zod';
import { END_CAUSES, type EndInfo } from '../ending.ts';
import { count, wallMs } from './values.ts';

export const victim = z
  .object({ pid: count, name: z.string(), rssBytes: count.describe('Its resident memory.') })
  .meta({ id: 'OomVictim' });

const source = z.enum(['guest', 'host']).meta({ id: 'MemorySource', description: 'The kernel that reports it.' });

const amount = {
  source,
  memoryBytes: count,
  limitBytes: count.describe('Limit at which the kernel kills; 0: unknown.'),
};

export const pressure = {
  type: z.literal('pressure'),
  ...amount,
  some: z.number().describe('Percent of the last 10 s in which some programs waited for memory (PSI).'),
  full: z.number().describe('The same for all programs.'),
};

export const nearOom = { type: z.literal('near_oom'), ...amount };

export const oom = { source, victim: victim.nullable(), detail: z.string() };

const memoryMark = z
  .discriminatedUnion('type', [
    z.object({ ...pressure, atMs: wallMs }).meta({ id: 'PressureMark' }),
    z.object({ ...nearOom, atMs: wallMs }).meta({ id: 'NearOomMark' }),
  ])
  .meta({ id: 'MemoryMark', description: 'The last sign of memory pressure.' });

export const lastMarks = {
  lastPressure: memoryMark.nullable(),
  lastOom: z
    .object({ ...oom, atMs: wallMs })
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
    atMs: wallMs,
  })
  .meta({
    id: 'SyscallViolation',
    description: 'The last system call that the seccomp filter of the VMM refused or logged.',
  });

export const endInfo: z.ZodType<EndInfo> = z
  .object({
    cause: z.enum(END_CAUSES).meta({ id: 'EndCause' }),
    detail: z.string(),
    atMs: wallMs,
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
