/** `neurovisor audit`: the log of control calls. */
import { plain } from '../../../base/text/plain.ts';
import { resolveHome } from '../../../home.ts';
import { verifyAudit, verifyAuditFiles } from '../../../tenants/audit.ts';
import type { ChainReport } from '../../../tenants/audit-record.ts';
import type { Cli } from '../../cli.ts';
import { usageOf } from './with-usage.ts';

/** @returns status 1 if something was changed */
export async function auditVerify(cli: Cli, files: readonly string[]): Promise<number> {
  const checking =
    files.length === 0 ? verifyAudit(resolveHome(cli.config.home).dir) : verifyAuditFiles(files);
  const report = await checking.catch((error: unknown) => {
    throw usageOf(error);
  });
  if (cli.json) cli.printJson({ ok: report.problemCount === 0, ...report });
  else cli.stdout.write(`${auditText(report)}\n`);
  return report.problemCount === 0 ? 0 : 1;
}

export function auditText(report: ChainReport): string {
  const { records, firstSeq, lastSeq, lastHash, problems, problemCount } = report;
  const more = problemCount - problems.length;
  const lines = [
    ...problems,
    ...(more === 0 ? [] : [`${more} more`]),
    `${records} ${records === 1 ? 'record' : 'records'}${records === 0 ? '' : `, ${firstSeq} to ${lastSeq}`}: ${
      problemCount === 0 ? 'unchanged' : 'not as they were written'
    }`,
    ...(lastHash === null ? [] : [`last  ${lastHash}`]),
  ];
  return lines.map(plain).join('\n');
}
