/** `neurovisor doctor`: checks each capability, and prints how to fix what does not work. */
import { plain } from '../../base/plain.ts';
import { examine } from '../../doctor/doctor.ts';
import { auditHost } from '../../doctor/security.ts';
import type { Cli } from '../cli.ts';
import { table } from '../output/table.ts';
import { verdictText } from '../output/verdict.ts';

export interface DoctorFlags {
  readonly security?: boolean;
}

/** @returns 1 if something that `run` needs is missing */
export async function doctor(cli: Cli, flags: DoctorFlags): Promise<number> {
  const options = { config: cli.config, log: cli.log };
  const checks = flags.security === true ? await auditHost(options) : await examine(options);
  const status = checks.some((check) => check.verdict === 'missing') ? 1 : 0;
  if (cli.json) {
    cli.printJson(checks);
    return status;
  }
  const rows = checks.map((check) => [check.name, verdictText(check.verdict), check.detail]);
  cli.stdout.write(
    `${table([flags.security === true ? 'check' : 'capability', 'verdict', 'found'], rows)}\n`,
  );
  const remedies = checks.filter((check) => check.remedy !== null);
  if (remedies.length > 0) cli.stdout.write('\nTo fix:\n');
  for (const { name, remedy } of remedies) cli.stdout.write(`  ${name}: ${plain(remedy ?? '')}\n`);
  return status;
}
