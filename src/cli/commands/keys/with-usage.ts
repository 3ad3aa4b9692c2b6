import { TenantError } from '../../../api/tenants/errors.ts';
import { describeError } from '../../../base/errors.ts';
import { UsageError } from '../../failure.ts';

const USAGE_CODES: readonly string[] = ['invalid', 'not_found'];

/** @throws UsageError for what the command line has wrong */
export function withUsage<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw usageOf(error);
  }
}

/** A UsageError for what the command line has wrong, otherwise the error itself. */
export function usageOf(error: unknown): unknown {
  const isUsage = error instanceof TenantError && USAGE_CODES.includes(error.code);
  return isUsage ? new UsageError(describeError(error), error.remedy) : error;
}
