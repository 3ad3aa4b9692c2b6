/** The command line of a tool that `./neurovisor NAME` starts in a checkout. */
import { Command, CommanderError } from 'commander';
import { EXIT_USAGE } from '../src/cli/exit-status.ts';

export function toolProgram(name: string): Command {
  return new Command(`neurovisor ${name}`).exitOverride().showHelpAfterError(`(see neurovisor ${name} --help)`);
}

/** Runs the tool with this process's arguments, and sets the exit status. */
export async function runTool(program: Command): Promise<void> {
  try {
    await program.parseAsync(process.argv.slice(2), { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    process.exitCode = error.exitCode === 0 ? 0 : EXIT_USAGE;
  }
}
