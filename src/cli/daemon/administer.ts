/** Gives a command the administration of a home. */
import type { Administration } from '../../api/tenants/administration.ts';
import { TenantError } from '../../api/tenants/errors.ts';
import { describeError } from '../../base/errors.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import * as library from '../library/administer.ts';
import { onWait } from './reach.ts';

/** @see library.administer @throws UsageError for a wrong argument */
export async function administer<T>(cli: Cli, work: library.AdministrationWork<T>): Promise<T> {
  return await library.administer(optionsOf(cli), work).catch(rethrow);
}

/** As `administer`, for work that only reads logs. */
export async function readAuditLogs<T>(cli: Cli, work: (home: Administration) => Promise<T>): Promise<T> {
  await using opened = await library.openAuditLogs(optionsOf(cli));
  return await work(opened.home).catch(rethrow);
}

const optionsOf = (cli: Cli): library.AdministerOptions => ({
  config: cli.config,
  signal: cli.cancelled,
  onWait: onWait(cli),
});

function rethrow(error: unknown): never {
  throw usageOf(error);
}

const USAGE_CODES: ReadonlySet<string> = new Set(['invalid', 'not_found']);

/** A UsageError for what the command line has wrong, otherwise the error itself. */
export function usageOf(error: unknown): unknown {
  const isUsage = error instanceof TenantError && USAGE_CODES.has(error.code);
  return isUsage ? new UsageError(describeError(error), error.remedy) : error;
}
