/** `neurovisor audit`: the logs of control calls and of requests to models. */
import { errorCode } from '../../../base/errors.ts';
import { plain } from '../../../base/text/plain.ts';
import { resolveHome } from '../../../home.ts';
import { verifyAudit, verifyAuditFiles } from '../../../tenants/audit.ts';
import type { ChainReport } from '../../../tenants/audit-record.ts';
import type { Cli } from '../../cli.ts';
import { usageOf } from './with-usage.ts';

/** @returns status 1 if something was changed */
export async function auditVerify(cli: Cli, files: readonly string[]): Promise<number> {
  const { dir } = resolveHome(cli.config.home);
  const checking = files.length === 0 ? verifyAudit(dir) : verifyAuditFiles(files);
  const report = await checking.catch((error: unknown) => {
    throw usageOf(error);
  });
  const models = files.length === 0 ? await modelsReport(dir) : null;
  const ok = report.problemCount + (models?.problemCount ?? 0) === 0;
  if (cli.json) cli.printJson({ ok, ...report, models });
  else {
    const more = models === null ? '' : `requests to models:\n${auditText(models)}\n`;
    cli.stdout.write(`${auditText(report)}\n${more}`);
  }
  return ok ? 0 : 1;
}

/** Null: an older daemon has kept none. */
async function modelsReport(dir: string): Promise<ChainReport | null> {
  try {
    return await verifyAudit(dir, undefined, 'models');
  } catch (error) {
    if (errorCode(error) === 'not_found') return null;
    throw usageOf(error);
  }
}

export function auditText(report: ChainReport): string {
  const { records, firstSeq, lastSeq, lastHash, firstAt, lastAt, problems, problemCount } = report;
  const more = problemCount - problems.length;
  const lines = [
    ...problems,
    ...(more === 0 ? [] : [`${more} more`]),
    `${records} ${records === 1 ? 'record' : 'records'}${records === 0 ? '' : `, ${firstSeq} to ${lastSeq}`}: ${
      problemCount === 0 ? 'unchanged' : 'not as they were written'
    }`,
    ...(firstAt === null || lastAt === null ? [] : [`from  ${firstAt}`, `to    ${lastAt}`]),
    ...(lastHash === null ? [] : [`last  ${lastHash}`]),
  ];
  return lines.map(plain).join('\n');
}
