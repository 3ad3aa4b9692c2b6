/** Definitions of `neurovisor audit`. */
import type { Command } from 'commander';
import { type OutputFlags, perform } from './perform.ts';
import { output } from './shared-options.ts';

export function addAudit(program: Command): void {
  const audit = program
    .command('audit')
    .summary('check the logs of control calls and model requests')
    .description(
      'Check the logs of control calls and of requests to models, which the daemon keeps in the directory audit of its ' +
        'home (NEUROVISOR_HOME).',
    )
    .addHelpText(
      'after',
      `
Examples:
  neurovisor audit verify
  neurovisor audit verify backup/audit.jsonl
`,
    );
  audit
    .command('verify')
    .summary('find changed, missing and reordered records')
    .description(
      'Find changed, missing and reordered records, and say which. Status 1 if there are any. Keep the hash of the last ' +
        'record elsewhere: anyone who can write to the home can write a whole new log.',
    )
    .argument('[file...]', 'files of a log, oldest first (default: the logs of this home)')
    .addOption(output())
    .action((files: string[], flags: OutputFlags) =>
      perform(flags, async (cli) =>
        (await import('../commands/keys/audit.ts')).auditVerify(cli, files),
      ),
    );
}
