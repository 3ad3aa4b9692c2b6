/** `neurovisor audit verify`. */
import type { AuditVerification, LogVerification } from '../../../api/tenants/audit-listing.ts';
import type { ChainReport } from '../../../api/tenants/audit-record.ts';
import { plain } from '../../../base/text/plain.ts';
import type { Cli } from '../../cli.ts';
import { readAuditLogs, usageOf } from '../../daemon/administer.ts';
import { UsageError } from '../../failure.ts';
import type { AuditLogFlags } from './audit-list.ts';

/** @param files of one log, wherever they are; none: the logs of the home. @returns status 1 if something was changed */
export async function auditVerify(cli: Cli, files: readonly string[], { tenant }: AuditLogFlags): Promise<number> {
  if (files.length === 0) return print(cli, await readAuditLogs(cli, (home) => home.verifyAudit(tenant)));
  if (tenant === undefined) return print(cli, await verifyFiles(files));
  throw new UsageError('files are checked without --tenant', 'omit the files, or --tenant');
}

async function verifyFiles(files: readonly string[]): Promise<AuditVerification> {
  const { verifyAuditFiles } = await import('../../../api/tenants/audit-verify.ts');
  const report = await verifyAuditFiles(files).catch((error: unknown) => {
    throw usageOf(error);
  });
  return { ok: report.problemCount === 0, ...report, models: null, contents: null, changedContents: [], tenants: [] };
}

function print(cli: Cli, verification: AuditVerification): number {
  if (cli.json) cli.printJson(verification);
  else {
    const tenants = verification.tenants.map((one) => `\ntenant ${one.tenant}:\n${logsText(one)}`);
    cli.stdout.write([logsText(verification), ...tenants].join(''));
  }
  return verification.ok ? 0 : 1;
}

function logsText(verification: LogVerification): string {
  const { models, contents, changedContents } = verification;
  const more = models === null ? '' : `requests to models:\n${auditText(models)}\n`;
  const shown = changedContents.slice(0, CHANGED_SHOWN_MAX).join(', ');
  const foreign =
    changedContents.length === 0
      ? ''
      : `${changedContents.length} do not match their requests, of which the first are ${shown}\n`;
  const last = contents === null ? '' : `contents:\n${auditText(contents)}\n${foreign}`;
  return `${auditText(verification)}\n${more}${last}`;
}

const CHANGED_SHOWN_MAX = 20;

export function auditText(report: ChainReport): string {
  const { records, firstSeq, lastSeq, lastHash, firstAt, lastAt, removed, problems, problemCount } = report;
  const more = problemCount - problems.length;
  const lines = [
    ...problems,
    ...(more === 0 ? [] : [`${more} more`]),
    `${records} ${records === 1 ? 'record' : 'records'}${records === 0 ? '' : `, ${firstSeq} to ${lastSeq}`}: ${
      problemCount === 0 ? 'unchanged' : 'not as they were written'
    }`,
    ...(removed === 0 ? [] : [`1 to ${removed}: removed with the oldest files`]),
    ...(firstAt === null || lastAt === null ? [] : [`from  ${firstAt}`, `to    ${lastAt}`]),
    ...(lastHash === null ? [] : [`last  ${lastHash}`]),
  ];
  return lines.map(plain).join('\n');
}
