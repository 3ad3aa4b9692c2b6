import type { BudgetUse } from '../../src/base/model-limits.ts';
import type { ModelAccount } from '../../src/sandbox/spec.ts';

/** The bridge of a fake host, as far as a control plane sees it. */
export class FakeModels {
  /** Requests of each guest that are being answered. */
  requests = 0;
  /** What budgets were used, by account. */
  readonly use = new Map<string, BudgetUse>();
  /** The account of each sandbox's last port. */
  readonly accounts = new Map<string, ModelAccount | undefined>();
}
