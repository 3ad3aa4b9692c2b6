import { TenantError } from '../../../tenants/errors.ts';
import { UsageError } from '../../failure.ts';

const USAGE_CODES: readonly string[] = ['invalid', 'not_found'];

/** @throws UsageError for what the command line has wrong */
export function withUsage<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof TenantError && USAGE_CODES.includes(error.code)) {
      throw new UsageError(error.message, error.remedy);
    }
    throw error;
  }
}
