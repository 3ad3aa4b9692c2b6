/** `neurovisor audit verify`. */
import type { AuditVerification } from '../../../api/tenants/audit-listing.ts';
import type { ChainReport } from '../../../api/tenants/audit-record.ts';
import { plain } from '../../../base/text/plain.ts';
import type { Cli } from '../../cli.ts';
import { readAuditLogs, usageOf } from '../../daemon/administer.ts';

/** @param files of one log, wherever they are; none: the logs of the home. @returns status 1 if something was changed */
export async function auditVerify(cli: Cli, files: readonly string[]): Promise<number> {
  return print(cli, await (files.length === 0 ? readAuditLogs(cli, (home) => home.verifyAudit()) : verifyFiles(files)));
}

async function verifyFiles(files: readonly string[]): Promise<AuditVerification> {
  const { verifyAuditFiles } = await import('../../../api/tenants/audit.ts');
  const report = await verifyAuditFiles(files).catch((error: unknown) => {
    throw usageOf(error);
  });
  return { ok: report.problemCount === 0, ...report, models: null, contents: null, changedContents: [] };
}

function print(cli: Cli, verification: AuditVerification): number {
  const { ok, models, contents, changedContents } = verification;
  if (cli.json) cli.printJson(verification);
  else {
    const more = models === null ? '' : `requests to models:\n${auditText(models)}\n`;
    const shown = changedContents.slice(0, CHANGED_SHOWN_MAX).join(', ');
    const foreign =
      changedContents.length === 0
        ? ''
        : `${changedContents.length} do not match their requests, of which the first are ${shown}\n`;
    const last = contents === null ? '' : `contents:\n${auditText(contents)}\n${foreign}`;
    cli.stdout.write(`${auditText(verification)}\n${more}${last}`);
  }
  return ok ? 0 : 1;
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
