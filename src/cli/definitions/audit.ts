/** Definitions of `neurovisor audit`. */
import type { Command } from 'commander';
import type { AuditListFlags, AuditLogFlags } from '../commands/keys/audit-list.ts';
import { auditRecord } from '../flags/ranges.ts';
import { type OutputFlags, perform } from './perform.ts';
import { listCommand, output } from './shared-options.ts';

const load = () => import('../commands/keys/audit-list.ts');

export function addAudit(program: Command): void {
  const audit = program
    .command('audit')
    .summary('read and check the logs of control calls and model requests')
    .description(
      'Read and check the logs of control calls and of requests to models, which the daemon keeps in the directory audit ' +
        'of its home (NEUROVISOR_HOME). What was asked and answered is kept only with `serve --audit-content`.',
    )
    .addHelpText(
      'after',
      `
Examples:
  neurovisor audit ls --sandbox 7ds14n1k --content
  neurovisor audit ls --since 1d --outcome refused
  neurovisor audit inspect 42
  neurovisor audit verify
`,
    );
  listCommand(audit)
    .summary('list requests to models, or control calls')
    .description(
      'List requests to models, oldest first, and what they add up to: tokens, and cost where prices are known. With -o ' +
        'json, print one record per line.',
    )
    .option('--sandbox <id>', 'of this sandbox: its id, or the beginning of it')
    .option('--tenant <name>', 'of this tenant')
    .option('--model <name>', 'to this model')
    .option(
      '--outcome <name>',
      'with this outcome (ok, cancelled, upstream-error, upstream-lost, refused) or refusal, for example budget_spent',
    )
    .option('--since <time>', 'since this date, or for so long, for example 2h')
    .option('--content', 'also show the newest message and the answer, where they are kept')
    .option('--calls', 'list control calls instead')
    .option('-f, --follow', 'also print new records, until Ctrl-C')
    .addOption(output())
    .addHelpText(
      'after',
      `
Examples:
  neurovisor audit ls --sandbox 7ds14n1k
  neurovisor audit ls --tenant acme --since 2026-11-01 -o json | jq .model.costNanoDollars
  neurovisor audit ls --calls --follow
`,
    )
    .action((flags: AuditListFlags & OutputFlags) =>
      perform(flags, async (cli) => (await load()).auditList(cli, flags)),
    );
  audit
    .command('inspect')
    .summary('show one request to a model')
    .description(
      'Show all that the logs have of one request to a model. Status 1 if its content is not the one that was written.',
    )
    .argument('<number>', 'number of the record, as `audit ls` shows it', auditRecord)
    .option('--tenant <name>', "of this tenant's log (default: the operator's)")
    .addOption(output())
    .addHelpText('after', '\nExample:\n  neurovisor audit inspect 42 --tenant acme -o json\n')
    .action((seq: number, flags: AuditLogFlags & OutputFlags) =>
      perform(flags, async (cli) => (await load()).auditShow(cli, seq, flags)),
    );
  audit
    .command('verify')
    .summary('find changed, missing and reordered records')
    .description(
      'Find changed, missing and reordered records, and say which. Status 1 if there are any. Keep the hash of the last ' +
        'record elsewhere: anyone who can write to the home can write a whole new log.',
    )
    .argument('[file...]', 'files of a log, oldest first (default: the logs of the home)')
    .option('--tenant <name>', 'only the logs of this tenant')
    .addOption(output())
    .action((files: string[], flags: AuditLogFlags & OutputFlags) =>
      perform(flags, async (cli) => (await import('../commands/keys/audit.ts')).auditVerify(cli, files, flags)),
    );
}
