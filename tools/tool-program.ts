/** The command line of a tool that `./neurovisor NAME` starts in a checkout. */
import { Command, CommanderError } from 'commander';
import { errorCode } from '../src/base/errors.ts';
import { EXIT_USAGE, exitOfSignal } from '../src/cli/exit-status.ts';

export function toolProgram(name: string): Command {
  return new Command(`neurovisor ${name}`).exitOverride().showHelpAfterError(`(see neurovisor ${name} --help)`);
}

/** Runs the tool with this process's arguments, and sets the exit status. */
export async function runTool(program: Command): Promise<void> {
  process.stdout.on('error', endOnClosedOutput);
  try {
    await program.parseAsync(process.argv.slice(2), { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    process.exitCode = error.exitCode === 0 ? 0 : EXIT_USAGE;
  }
}

/** The reader has left (`| head`): what would follow is for nobody. */
function endOnClosedOutput(error: Error): void {
  if (errorCode(error) !== 'EPIPE') throw error;
  process.exit(exitOfSignal('SIGPIPE'));
}
