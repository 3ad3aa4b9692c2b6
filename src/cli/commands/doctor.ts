/** `neurovisor doctor`: every capability, whether it works, and what to do where it does not. */
import { styleText } from 'node:util';
import { examine } from '../../runtime/doctor.ts';
import type { Cli } from '../cli.ts';
import { table } from '../table.ts';

const COLOURS = { ok: 'green', limited: 'yellow', missing: 'red' } as const;

/** @returns 1 when something that `run` needs is missing */
export async function doctor(cli: Cli): Promise<number> {
  const checks = await examine({ config: cli.config, log: cli.log });
  const status = checks.some((check) => check.verdict === 'missing') ? 1 : 0;
  if (cli.json) {
    cli.printJson(checks);
    return status;
  }
  const rows = checks.map((check) => [
    check.name,
    styleText(COLOURS[check.verdict], check.verdict),
    check.detail,
  ]);
  cli.stdout.write(`${table(['capability', 'verdict', 'found'], rows)}\n`);
  const remedies = checks.filter((check) => check.remedy !== null);
  if (remedies.length > 0) cli.stdout.write('\nWhat would make it better:\n');
  for (const { name, remedy } of remedies) cli.stdout.write(`  ${name}: ${remedy}\n`);
  return status;
}
