/** `neurovisor doctor`: checks each capability, and prints how to fix what does not work, or a report for an issue. */
import { plain } from '../../base/text/plain.ts';
import { examine } from '../../host/doctor/doctor.ts';
import { reportHost } from '../../host/doctor/report.ts';
import { reportText } from '../../host/doctor/report-text.ts';
import { auditHost } from '../../host/doctor/security.ts';
import type { Cli } from '../cli.ts';
import { table } from '../output/table.ts';
import { verdictText } from '../output/verdict.ts';

export interface DoctorFlags {
  readonly security?: boolean;
  readonly report?: boolean;
}

/** @returns 1 if something that `run` needs is missing */
export async function doctor(cli: Cli, flags: DoctorFlags): Promise<number> {
  if (flags.report === true) return await report(cli);
  const options = { config: cli.config, log: cli.log };
  const checks = flags.security === true ? await auditHost(options) : await examine(options);
  const status = checks.some((check) => check.verdict === 'missing') ? 1 : 0;
  if (cli.json) {
    cli.printJson(checks);
    return status;
  }
  const rows = checks.map((check) => [check.name, verdictText(check.verdict), check.detail]);
  cli.stdout.write(`${table([flags.security === true ? 'check' : 'capability', 'verdict', 'found'], rows)}\n`);
  const remedies = checks.filter((check) => check.remedy !== null);
  if (remedies.length > 0) cli.stdout.write('\nTo fix:\n');
  for (const { name, remedy } of remedies) cli.stdout.write(`  ${name}: ${plain(remedy ?? '')}\n`);
  return status;
}

/** @returns 0, since it judges nothing */
async function report(cli: Cli): Promise<number> {
  const say = (text: string): void => {
    if (cli.stderr.isTTY) cli.stderr.write(`\r\x1b[K${text}`);
  };
  const { config, cancelled: signal } = cli;
  const found = await reportHost({ config, signal, env: process.env, say }).finally(() => say(''));
  if (cli.json) cli.printJson(found);
  else cli.stdout.write(reportText(found));
  return 0;
}
