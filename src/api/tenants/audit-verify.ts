/** Checks audit logs: finds changed, missing and reordered records. */
import { createReadStream } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { isDeepStrictEqual } from 'node:util';
import { errorCode } from '../../base/errors.ts';
import { AUDIT_LIMITS } from './audit-chain.ts';
import {
  type AuditPlace,
  auditDir,
  FULL,
  type LogFiles,
  listFiles,
  noLog,
  readFailure,
  readHead,
  readRemoved,
} from './audit-files.ts';
import { CHAIN_START, type ChainBegin, ChainCheck, type ChainEnd, type ChainReport } from './audit-record.ts';
import { TenantError } from './errors.ts';

/**
 * Checks the files of a home, oldest first. A daemon may write meanwhile, so problems count only if no file was rotated
 * or removed since they were listed.
 * @param options the log; `filesMax`: number of full files from which on some may have been removed without a note
 * @throws TenantError `not_found` without a log; `file_failed`
 */
export async function verifyAudit(
  homeDir: string,
  { kind, tenant = null, filesMax }: Partial<AuditPlace> & { readonly filesMax?: number } = {},
): Promise<ChainReport> {
  const dir = auditDir(homeDir, kind, tenant);
  // Version 0.2, which had no tenants' logs, removed files without a note.
  const unnotedMax = filesMax ?? (tenant === null ? AUDIT_LIMITS.filesMax : Number.POSITIVE_INFINITY);
  for (;;) {
    const files = await listFiles(dir);
    const found = await verifyFiles(dir, files, unnotedMax).catch((error: unknown) => readFailure(dir, error));
    const isSound = !(found instanceof TenantError) && found.problemCount === 0;
    if (!isSound && !isDeepStrictEqual(files, await listFiles(dir))) continue;
    if (found instanceof TenantError) throw found;
    return found;
  }
}

async function verifyFiles(dir: string, { full, current }: LogFiles, unnotedMax: number): Promise<ChainReport> {
  const known = await readHead(dir);
  if (known === null && full.length + current.length === 0) throw noLog(dir);
  const [, oldest = '1'] = FULL.exec(full[0] ?? '') ?? [];
  const paths = [...full, ...current].map((name) => join(dir, name));
  const unnoted = full.length < unnotedMax ? CHAIN_START : { seq: Number(oldest) - 1, hash: null };
  return await verify(paths, known, (await readRemoved(dir)) ?? unnoted);
}

/** Checks files as one chain, which may begin anywhere. @throws TenantError `not_found`, `file_failed` */
export async function verifyAuditFiles(paths: readonly string[]): Promise<ChainReport> {
  return await verify(paths, null, null);
}

async function verify(
  paths: readonly string[],
  known: ChainEnd | null,
  removed: ChainBegin | null,
): Promise<ChainReport> {
  const check = new ChainCheck(known, removed);
  for (const path of paths) {
    let line = 0;
    const input = createReadStream(path);
    try {
      for await (const text of createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY })) {
        line += 1;
        check.add(text, `${path} line ${line}`);
      }
    } catch (error) {
      const code = errorCode(error) === 'ENOENT' ? 'not_found' : 'file_failed';
      throw new TenantError(code, `could not read ${path}`, { cause: error });
    }
  }
  return check.end();
}
