/** Makes the errors of used-up quotas, and counts them. */
import { Counter } from '../../base/metrics.ts';
import { QUOTAS, QuotaError, type QuotaName } from './errors.ts';

export class QuotaRefusals {
  readonly metric = new Counter('neurovisor_quota_refusals_total', 'Requests of tenants that a quota refused.', [
    'quota',
  ]);

  constructor() {
    // Creates all series at 0: Prometheus misses the first increase of a series that begins with it.
    for (const quota of QUOTAS) this.metric.add({ quota }, 0);
  }

  /** @param retryMs when the quota has room again. Default: unknown */
  refuse(tenant: string, quota: QuotaName, use: string, retryMs?: number): QuotaError {
    this.metric.add({ quota });
    return new QuotaError(tenant, quota, use, retryMs);
  }
}
