/**
 * All commands, in the order of the general help, by the file that defines them. A command line that begins with a command
 * loads that file alone: the others would take longer than most commands do (decision 39).
 */
import type { Command } from 'commander';

interface Definitions {
  /** Heading of the general help. */
  readonly heading: string;
  /** The names of the commands, which a test compares with the file's. */
  readonly names: readonly string[];
  /** Imports the file. @returns its function that adds the commands to the program */
  load(): Promise<(program: Command) => void>;
}

const SCRIPTS = 'Scripts:';
const SANDBOXES = 'Sandboxes and the daemon:';
const MACHINE = 'Images, models and the machine:';

export const DEFINITIONS: readonly Definitions[] = [
  { heading: SCRIPTS, names: ['run'], load: async () => (await import('./run.ts')).addRun },
  { heading: SANDBOXES, names: ['create'], load: async () => (await import('./create.ts')).addCreate },
  { heading: SANDBOXES, names: ['update'], load: async () => (await import('./update.ts')).addUpdate },
  {
    heading: SANDBOXES,
    names: ['ls', 'rm', 'pause', 'resume', 'snapshot', 'fork'],
    load: async () => (await import('./sandbox.ts')).addSandbox,
  },
  { heading: SANDBOXES, names: ['secret'], load: async () => (await import('./secret.ts')).addSecret },
  { heading: SANDBOXES, names: ['volume'], load: async () => (await import('./volume.ts')).addVolume },
  {
    heading: SANDBOXES,
    names: ['exec', 'attach', 'wait', 'shell', 'cp', 'port', 'ps'],
    load: async () => (await import('./inside.ts')).addInside,
  },
  {
    heading: SANDBOXES,
    names: ['events', 'logs', 'inspect'],
    load: async () => (await import('./history.ts')).addHistory,
  },
  {
    heading: SANDBOXES,
    names: ['serve', 'host', 'top', 'pool', 'config'],
    load: async () => (await import('./daemon.ts')).addDaemon,
  },
  {
    heading: SANDBOXES,
    names: ['cordon', 'uncordon', 'drain'],
    load: async () => (await import('./drain.ts')).addDrain,
  },
  {
    heading: SANDBOXES,
    names: ['login', 'logout', 'context'],
    load: async () => (await import('./context.ts')).addContext,
  },
  { heading: SANDBOXES, names: ['key'], load: async () => (await import('./key.ts')).addKey },
  { heading: SANDBOXES, names: ['tenant'], load: async () => (await import('./tenant.ts')).addTenant },
  { heading: SANDBOXES, names: ['audit'], load: async () => (await import('./audit.ts')).addAudit },
  { heading: MACHINE, names: ['template'], load: async () => (await import('./template.ts')).addTemplate },
  { heading: MACHINE, names: ['image'], load: async () => (await import('./image.ts')).addImage },
  {
    heading: MACHINE,
    names: ['setup', 'doctor', 'df', 'prune', 'bench'],
    load: async () => (await import('./machine.ts')).addMachine,
  },
  { heading: MACHINE, names: ['models'], load: async () => (await import('./models.ts')).addModels },
  { heading: MACHINE, names: ['net', 'prove'], load: async () => (await import('./net.ts')).addNet },
];

/** Adds the command that the words begin with and those of its file; all commands if they begin with none. */
export async function addCommands(program: Command, [first = '']: readonly string[]): Promise<void> {
  const named = DEFINITIONS.filter(({ names }) => names.includes(first));
  const wanted = named.length > 0 ? named : DEFINITIONS;
  const adds = await Promise.all(wanted.map(({ load }) => load()));
  for (const [at, { heading }] of wanted.entries()) {
    program.commandsGroup(heading);
    adds[at]?.(program);
  }
}
