import type { BudgetUse, ModelBudget } from '../../src/base/request/model-limits.ts';
import type { ModelAccount, ModelPolicy } from '../../src/sandbox/contract/model-policy.ts';

/** The bridge of a fake host, as a control plane sees it. */
export class FakeModels {
  /** Number of each guest's requests in flight. */
  requests = 0;
  /** Usage of budgets, by account. */
  readonly use = new Map<string, BudgetUse>();
  /** The budget of each sandbox's port. */
  readonly budgets = new Map<string, ModelBudget>();
  /** The account of each sandbox's last port. */
  readonly accounts = new Map<string, ModelAccount | undefined>();

  /** Returns a function that changes the policy of the port. */
  attach(id: string, models: ModelPolicy, account: ModelAccount | undefined): (models: ModelPolicy) => void {
    const set = ({ budget }: ModelPolicy): void => void this.budgets.set(id, budget);
    this.accounts.set(id, account);
    set(models);
    return set;
  }
}
