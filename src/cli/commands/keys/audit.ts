/** `neurovisor audit`: the logs of control calls and of requests to models. */
import { type AuditKind, verifyAudit, verifyAuditFiles } from '../../../api/tenants/audit.ts';
import { changedContents } from '../../../api/tenants/audit-read.ts';
import type { ChainReport } from '../../../api/tenants/audit-record.ts';
import { errorCode } from '../../../base/errors.ts';
import { resolveHome } from '../../../base/home.ts';
import { plain } from '../../../base/text/plain.ts';
import type { Cli } from '../../cli.ts';
import { usageOf } from './with-usage.ts';

/** @returns status 1 if something was changed */
export async function auditVerify(cli: Cli, files: readonly string[]): Promise<number> {
  const { dir } = resolveHome(cli.config.home);
  const checking = files.length === 0 ? verifyAudit(dir) : verifyAuditFiles(files);
  const report = await checking.catch((error: unknown) => {
    throw usageOf(error);
  });
  const [models, contents] =
    files.length === 0 ? [await reportIfThere(dir, 'models'), await reportIfThere(dir, 'content')] : [null, null];
  const reports = [report, models, contents];
  const changed = contents === null || models === null ? [] : await changedContents(dir);
  const ok = reports.every((one) => (one?.problemCount ?? 0) === 0) && changed.length === 0;
  if (cli.json) cli.printJson({ ok, ...report, models, contents, changedContents: changed });
  else {
    const more = models === null ? '' : `requests to models:\n${auditText(models)}\n`;
    const shown = changed.slice(0, CHANGED_SHOWN_MAX).join(', ');
    const foreign =
      changed.length === 0 ? '' : `${changed.length} do not match their requests, of which the first are ${shown}\n`;
    const last = contents === null ? '' : `contents:\n${auditText(contents)}\n${foreign}`;
    cli.stdout.write(`${auditText(report)}\n${more}${last}`);
  }
  return ok ? 0 : 1;
}

const CHANGED_SHOWN_MAX = 20;

/** Null: the daemon has kept none. */
async function reportIfThere(dir: string, kind: AuditKind): Promise<ChainReport | null> {
  try {
    return await verifyAudit(dir, undefined, kind);
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
