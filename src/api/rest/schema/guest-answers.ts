/** Answers about the programs and files in a guest. */
import { z } from 'zod';
import type { EndedProcess, FileEntry, GuestInfo, ProcessExit, ProcessInfo } from '../../../machine/guest/guest.ts';
import { victim } from '../../../sandbox/contract/schema/ending.ts';
import { count, ms, wallMs } from '../../../sandbox/contract/schema/values.ts';

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

const processFields = z.object({
  pid: count,
  kind: z.enum(['exec', 'python']),
  argv: z.array(z.string()),
  cwd: z.string(),
  user: z.string(),
  tag: z.string().nullable(),
  pty: z.boolean(),
  detached: z.boolean(),
  ageMs: ms,
});
const processInfo: z.ZodType<ProcessInfo> = processFields.meta({ id: 'Process' });

const exitFields = z.object({
  exitCode: z.number().nullable().describe('Null if a signal ended it.'),
  signal: z.string().nullable(),
  timedOut: z.boolean(),
  oomKilled: z.boolean().describe('The guest’s OOM killer killed it.'),
  oomVictim: victim.nullable().describe('The process that the OOM killer chose.'),
  truncated: z.boolean().describe('True: output beyond the limit was dropped.'),
  durationMs: ms,
});
export const processExit: z.ZodType<ProcessExit> = exitFields.meta({ id: 'ProcessExit' });

const endedProcess: z.ZodType<EndedProcess> = processFields.extend({ exit: processExit }).meta({ id: 'EndedProcess' });

export const processList = z
  .object({
    processes: z.array(processInfo),
    ended: z.array(endedProcess).describe('Ended programs whose output and exit are kept, oldest first.'),
  })
  .meta({ id: 'ProcessList' });

const outputEncoding = z.enum(['utf8', 'base64']);

const outputFields = z.object({
  stdout: z.string(),
  stderr: z.string(),
  encoding: z
    .object({ stdout: outputEncoding, stderr: outputEncoding })
    .meta({ id: 'OutputEncoding' })
    .describe('`base64` for output that is not UTF-8.'),
});

export const execResult = exitFields.extend(outputFields.shape).meta({ id: 'ExecResult' });

const offsets = z.object({ stdout: count, stderr: count }).meta({ id: 'OutputOffsets' });

export const keptOutput = outputFields
  .extend({
    from: offsets.describe('Bytes of each stream before this output: more than asked for if they are no longer kept.'),
    to: offsets.describe('Offsets to ask for next.'),
  })
  .meta({ id: 'KeptOutput' });

const fileType = z.enum(['file', 'directory', 'symlink', 'other']);

export const fileEntry: z.ZodType<FileEntry> = z
  .object({
    name: z.string(),
    path: z.string(),
    type: fileType,
    bytes: count,
    mode: z.number().describe('Permission bits, as a decimal number.'),
    owner: z.string(),
    group: z.string(),
    modifiedMs: wallMs,
    symlinkTarget: z.string().nullable(),
    target: z
      .object({ path: z.string(), type: fileType, mode: z.number() })
      .meta({ id: 'LinkTarget' })
      .nullable()
      .optional()
      .describe('Where a symbolic link leads in the end; null: nowhere.'),
    metadata: z.record(z.string(), z.string()).optional().describe('The extended attributes user.e2b.NAME, by NAME.'),
  })
  .meta({ id: 'FileEntry' });

export const fileList = z.object({ entries: z.array(fileEntry) }).meta({ id: 'FileList' });
