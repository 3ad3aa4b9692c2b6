/**
 * Model budgets that sandboxes share: of a tenant, and of all sandboxes of the host. Their limits are settings in the
 * home, which apply as soon as they change. The use in each window is in a file, so that a restart of the daemon does
 * not reset it; the bridge counts.
 *
 *     settings ─► of ─► bridge ─► note ─► HOME/model-budgets.json, at most once a second, and at the end
 */
import { join } from 'node:path';
import { z } from 'zod';
import type { Clock } from '../../base/clock.ts';
import type { Log } from '../../base/log.ts';
import { gaugeBy, type Metric } from '../../base/metrics.ts';
import {
  type BudgetUse,
  budgetStates,
  currentUse,
  HOST_ACCOUNT,
  type SharedBudget,
  tenantAccount,
  tenantOfAccount,
  type WindowedBudget,
} from '../../base/request/model-limits.ts';
import { TENANT_LIMITS } from './limits.ts';
import { SavedFile } from './saved-file.ts';
import type { HostSettings, TenantStore } from './settings.ts';

const count = z.int().nonnegative();
const file = z.record(
  z.string(),
  z.object({
    inputTokens: count,
    outputTokens: count,
    requests: count,
    costNanoDollars: count,
    window: count,
    windowMs: z.int().positive(),
  }),
);

export interface ModelBudgetsParts {
  readonly homeDir: string;
  readonly clock: Clock;
  readonly log: Log;
  readonly tenants: Pick<TenantStore, 'get' | 'list'>;
  readonly host: { get(): Pick<HostSettings, 'modelBudget'> };
}

interface AccountLimits {
  readonly account: string;
  readonly limits: WindowedBudget;
}

export class ModelBudgets implements AsyncDisposable {
  readonly #parts: ModelBudgetsParts;
  readonly #used = new Map<string, BudgetUse>();
  #file: SavedFile | null = null;

  private constructor(parts: ModelBudgetsParts) {
    this.#parts = parts;
  }

  /** An unreadable file counts as none, with a warning in the log. */
  static async open(parts: ModelBudgetsParts): Promise<ModelBudgets> {
    const { homeDir, clock, log } = parts;
    const made = new ModelBudgets(parts);
    const saved = new SavedFile({
      path: join(homeDir, 'model-budgets.json'),
      clock,
      log,
      what: 'the use of the budgets for models',
      text: () => `${JSON.stringify(made.#current())}\n`,
    });
    const kept = await saved.read((text) => file.parse(JSON.parse(text)));
    for (const [account, used] of Object.entries(kept ?? {})) made.#used.set(account, used);
    made.#file = saved;
    return made;
  }

  /** By account, in the windows of the last use. */
  get used(): ReadonlyMap<string, BudgetUse> {
    return this.#used;
  }

  /** The current limits for a sandbox of the tenant; `null` for one of the operator. */
  of(tenant: string | null): readonly AccountLimits[] {
    const { tenants, host } = this.#parts;
    const own = tenant === null ? null : tenants.get(tenant).modelBudget;
    const all = host.get().modelBudget;
    return [
      ...(tenant === null || own === null ? [] : [{ account: tenantAccount(tenant), limits: own }]),
      ...(all === null ? [] : [{ account: HOST_ACCOUNT, limits: all }]),
    ];
  }

  /**
   * Call when a request of the tenant's sandbox has ended; `null` for the operator's. @param useOf current use of an
   * account
   */
  note(tenant: string | null, useOf: (account: string) => BudgetUse | null): void {
    for (const account of [HOST_ACCOUNT, ...(tenant === null ? [] : [tenantAccount(tenant)])]) {
      const used = useOf(account);
      if (used === null) continue;
      this.#used.set(account, used);
      this.#file?.changed();
    }
  }

  /** For a removed tenant: a new one of its name begins at 0. */
  forget(tenant: string): void {
    if (this.#used.delete(tenantAccount(tenant))) this.#file?.changed();
  }

  /** The host's first, then those of tenants by name. */
  list(): readonly SharedBudget[] {
    const { tenants, host } = this.#parts;
    const known = tenants.list();
    // A tenant without settings of its own may have the budget that all inherit.
    const heirs = [...this.#used.keys()]
      .flatMap((account) => tenantOfAccount(account) ?? [])
      .filter((name) => !known.some((one) => one.name === name))
      .map((name) => tenants.get(name));
    const sorted = [...known, ...heirs].sort((a, b) => (a.name < b.name ? -1 : 1));
    const all = [
      { tenant: null, limits: host.get().modelBudget },
      ...sorted.map(({ name, modelBudget }) => ({ tenant: name, limits: modelBudget })),
    ];
    return all.flatMap(({ tenant, limits }) => {
      if (limits === null) return [];
      const account = tenant === null ? HOST_ACCOUNT : tenantAccount(tenant);
      return [{ tenant, limits, used: this.#used.get(account) ?? null }];
    });
  }

  /** Tenants beyond `budgetSeriesMax`, in the order of their names, have no series. */
  metrics(): readonly Metric[] {
    const states = (isHost: boolean) =>
      this.list()
        .filter(({ tenant }) => (tenant === null) === isHost)
        .slice(0, TENANT_LIMITS.budgetSeriesMax)
        .flatMap(({ tenant, limits, used }) =>
          budgetStates(limits, used, this.#parts.clock.wall()).map((state) => ({ tenant: tenant ?? '', state })),
        );
    const host = (key: 'limit' | 'used', help: string): Metric =>
      gaugeBy(`neurovisor_model_budget_${key}`, help, ['kind'], () =>
        states(true).map(({ state }) => [{ kind: state.kind }, state[key]]),
      );
    const tenants = (key: 'limit' | 'used', help: string): Metric =>
      gaugeBy(`neurovisor_tenant_model_budget_${key}`, help, ['tenant', 'kind'], () =>
        states(false).map(({ tenant, state }) => [{ tenant, kind: state.kind }, state[key]]),
      );
    return [
      host('limit', 'Budget of all sandboxes together.'),
      host('used', 'Use of the budget of all sandboxes in this window.'),
      tenants('limit', 'Budgets of tenants.'),
      tenants('used', 'Use of tenants’ budgets in this window.'),
    ];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file?.[Symbol.asyncDispose]();
  }

  /** Excludes use that no window counts any more. */
  #current(): Readonly<Record<string, BudgetUse>> {
    const nowMs = this.#parts.clock.wall();
    return Object.fromEntries([...this.#used].filter(([, used]) => currentUse(used, used, nowMs) !== null));
  }
}
