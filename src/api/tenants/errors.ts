import { CodedError } from '../../base/errors.ts';
import { BusyError } from '../../sandbox/contract/errors.ts';
import { TENANT_LIMITS } from './limits.ts';

export type TenantErrorCode =
  /** A name, label or number is out of range; the message names it. */
  | 'invalid'
  /** No key has this id, no tenant has this name, or there is no such log. */
  | 'not_found'
  /** The home already has the maximum number of keys. */
  | 'too_many'
  /** A file can't be read or written, or was changed by hand. */
  | 'file_failed';

export class TenantError extends CodedError<TenantErrorCode> {}

export const QUOTAS = ['sandboxes', 'memory', 'starts', 'storage'] as const;
export type QuotaName = (typeof QUOTAS)[number];

/** What makes room. Starts become free by themselves. */
const RELIEF: Readonly<Record<QuotaName, string | null>> = {
  sandboxes: 'remove a sandbox',
  memory: 'remove a sandbox, or pause one to disk',
  starts: null,
  storage: 'remove a snapshot, a sandbox or a template',
};

/** A quota of a tenant is used up. The message names the quota and its use. */
export class QuotaError extends BusyError {
  readonly quota: QuotaName;

  /** @param retryMs when a start is free again. Default: unknown */
  constructor(tenant: string, quota: QuotaName, use: string, retryMs?: number) {
    const ask = `ask the operator for more (neurovisor tenant set ${tenant} --${quota})`;
    const relief = RELIEF[quota];
    const remedy = relief === null ? ask : `${relief}, or ${ask}`;
    const isSoon = retryMs !== undefined;
    super(`quota of tenant ${tenant}: ${use}`, Math.ceil(retryMs ?? TENANT_LIMITS.retryMs), isSoon ? {} : { remedy });
    this.quota = quota;
  }
}
