/** Bodies of requests that act on sandboxes. Those that make and change them: `sandbox/contract/schema/request.ts`. */
import { z } from 'zod';
import type { ResumeOptions, SnapshotOptions } from '../../../sandbox/contract/control.ts';
import { RANGES, REQUEST_LIMITS } from '../../../sandbox/contract/limits.ts';
import { poolMembers, programEnvironment } from '../../../sandbox/contract/schema/request.ts';
import { pausedTo } from '../../../sandbox/contract/schema/sandbox.ts';
import { list, snapshotName, text, whole } from '../../../sandbox/contract/schema/values.ts';

export const pauseRequest = z
  .strictObject({
    to: pausedTo
      .default('memory')
      .describe(
        '`memory`: the CPUs stop. `disk`: the memory is saved and freed, and connections end. `disk-only`: the memory ' +
          'is not saved, so processes end; only a resume boots the sandbox again.',
      ),
  })
  .meta({ id: 'PauseRequest' });

export const resumeRequest: z.ZodType<Omit<ResumeOptions, 'signal'>> = z
  .strictObject({
    reboot: z
      .boolean()
      .exactOptional()
      .describe('Boots from the disk and drops a saved memory; processes end. Default false.'),
  })
  .meta({ id: 'ResumeRequest' });

export const snapshotRequest = z
  .strictObject({
    name: snapshotName.exactOptional(),
    diskOnly: z.boolean().exactOptional().describe('Saves no memory: sandboxes boot from the disk. Default false.'),
  } satisfies Record<keyof SnapshotOptions, z.ZodType>)
  .meta({ id: 'SnapshotRequest' });

export const poolRequest = z
  .strictObject({
    min: whole(RANGES.poolMembers).describe('Minimum of ready members.'),
    max: whole(RANGES.poolMembers).describe('Maximum of ready members.'),
    spec: poolMembers.exactOptional(),
  })
  .meta({ id: 'PoolRequest' });

const runFields = {
  env: programEnvironment.optional().describe("Added to the sandbox's environment."),
  cwd: text(4096).min(1).optional().describe("Default: the user's home."),
  user: text(256).min(1).optional().describe('Default `user`; `root` is allowed.'),
  stdin: z.string().optional().describe('Standard input. Default: empty.'),
  timeoutMs: whole(RANGES.timeoutMs).optional().describe('Time limit of the program.'),
  outputBytesMax: whole({ min: 0, max: 1e12 }).optional().describe('Output beyond this is dropped. At most 16 MiB.'),
};
const execProgram = z
  .strictObject({
    argv: list(z.string(), REQUEST_LIMITS.argumentsMax).min(1).describe('Program and arguments; no shell.'),
    ...runFields,
  })
  .meta({ id: 'ExecProgram', examples: [{ argv: ['ls', '-l'] }] });
const execScript = z
  .strictObject({
    code: z.string().describe('A Python script.'),
    args: list(z.string(), REQUEST_LIMITS.argumentsMax).optional().describe('Arguments of the script.'),
    ...runFields,
  })
  .meta({ id: 'ExecScript', examples: [{ code: 'print(6 * 7)' }] });
export const execRequest = z
  .xor([execProgram, execScript], { error: execFault })
  .meta({
    id: 'ExecRequest',
    description: 'A program or a Python script.',
    examples: [{ argv: ['ls', '-l'] }, { code: 'print(6 * 7)' }],
  });
export type ExecRequest = z.output<typeof execRequest>;

/** The error of the request kind that was meant: a union's own message names no field. */
function execFault({ input, errors }: { input?: unknown; errors?: unknown }): string {
  const given = typeof input === 'object' && input !== null ? input : {};
  if ('argv' in given === 'code' in given) return 'give either `argv` or `code`';
  if ('args' in given && 'argv' in given) return '`args` requires `code`';
  const [program = [], script = []] = errors as readonly (readonly z.core.$ZodIssue[])[];
  return ('argv' in given ? program : script)
    .map(({ path, message }) => [...path.map(String), message].join(': '))
    .join('; ');
}
