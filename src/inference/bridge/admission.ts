/** Admits a request before it is sent: reserves a part of its sandbox's budget, then a slot of an upstream. */

import { accepted, type Checked, refused } from '../../base/http/refusal.ts';
import { HOST_ACCOUNT, type ModelBudget, tenantAccount } from '../../base/request/model-limits.ts';
import type { BudgetShare, Reservation } from './budget/accounts.ts';
import type { Budgets } from './budget/budgets.ts';
import { DEFAULT_OUTPUT_TOKENS, EXPECTED_OUTPUT_TOKENS, type OutputLimit, outputEdits } from './budget/output-limit.ts';
import { costOf, dearestOf, FREE, type Price } from './budget/price.ts';
import type { BridgePolicy } from './policy.ts';
import type { Turn, UpstreamQueues } from './queue/upstream-queues.ts';
import type { Route } from './routing/route-table.ts';
import { type Plan, withRoutes } from './routing/router.ts';
import type { UpstreamTarget } from './upstream/address.ts';
import type { TokenCounts } from './usage.ts';

export interface AdmissionContext {
  readonly sandboxId: string;
  /** The budget account; sandboxes may share one. */
  readonly account: string;
  readonly policy: BridgePolicy;
  readonly sharedBudgets: SharedBudgets;
  readonly budgets: Budgets;
  readonly queues: UpstreamQueues;
  /** `null` for the operator's sandboxes. */
  readonly tenantOf: (sandboxId: string) => string | null;
}

/** The current shared budgets that apply to a sandbox of this tenant: the tenant's and the host's. */
export type SharedBudgets = (
  tenant: string | null,
) => readonly { readonly account: string; readonly limits: ModelBudget }[];

export interface AdmissionRequest {
  readonly promptTokensEstimate: number;
  /** Counts for the queue alone, unless the server counts more. */
  readonly soundTokensEstimate?: number | undefined;
  readonly output: OutputLimit | null;
  readonly plan: Plan;
}

const MODEL_CHARACTERS_SHOWN_MAX = 100;

export class Admission {
  /** The routes that the request may take. With a cost limit, only those whose price is known. */
  readonly plan: Plan;
  readonly #context: AdmissionContext;
  /** The least number of input tokens that the queue counts. */
  readonly #soundTokens: number;
  readonly #inputTokens: number;
  readonly #expectedOutput: number;
  readonly #reservation: Reservation | undefined;
  #turn: Turn | undefined;
  #price: Price = FREE;
  #isPriced = false;
  #costNanoDollars = 0;

  private constructor(
    context: AdmissionContext,
    { promptTokensEstimate, soundTokensEstimate = 0, output, plan }: AdmissionRequest,
    reservation: Reservation | undefined,
  ) {
    this.#context = context;
    this.plan = plan;
    this.#soundTokens = soundTokensEstimate;
    this.#inputTokens = promptTokensEstimate + soundTokensEstimate;
    this.#expectedOutput = Math.min(EXPECTED_OUTPUT_TOKENS, mostOf(output));
    this.#reservation = reservation;
  }

  /** Waits for the budget. The caller must end or release the admission. @throws the signal's reason */
  static async reserve(
    context: AdmissionContext,
    request: AdmissionRequest,
    signal: AbortSignal,
  ): Promise<Checked<Admission>> {
    const shares = (): readonly BudgetShare[] => sharesOf(context);
    const first = shares();
    if (first.length === 0) return accepted(new Admission(context, request, undefined));
    const { promptTokensEstimate: inputTokens, output } = request;
    const size = { inputTokens, outputTokens: mostOf(output), answers: output?.answers ?? 1 };
    let hasCost = first.some(({ limits }) => limits.costNanoDollars !== undefined);
    for (;;) {
      const plan = hasCost ? pricedPlan(request.plan) : request.plan;
      if (plan.groups.length === 0) return unpriced(plan.model);
      const wanted = { ...size, price: dearest(plan) };
      const reserved = await context.budgets.reserve(shares, wanted, signal);
      if (!reserved.ok) return reserved;
      if (hasCost || !reserved.value.limitsCost) {
        return accepted(new Admission(context, { ...request, plan }, reserved.value));
      }
      // A cost limit was set after the request had arrived.
      reserved.value.release();
      hasCost = true;
    }
  }

  /** Waits for a slot of the upstream, which replaces the current one. @throws the signal's reason */
  async enter(target: UpstreamTarget, signal: AbortSignal): Promise<Checked<Turn>> {
    const { sandboxId, policy, queues, tenantOf } = this.#context;
    const entered = await queues.enter(
      target,
      {
        tenant: tenantOf(sandboxId),
        sandboxId,
        priority: policy.priority ?? 'normal',
        inputTokens: this.#inputTokens,
        outputTokens: this.#expectedOutput,
      },
      signal,
    );
    if (entered.ok) this.#turn = entered.value;
    return entered;
  }

  /** Members to set in a form of the request, to enforce the budget's answer limit. */
  editsOf(output: OutputLimit | null): Readonly<Record<string, number>> {
    return answerEdits(output, this.#reservation);
  }

  /** Cost of the answer in billionths of a dollar; `null` if its route has no price. */
  get costNanoDollars(): number | null {
    return this.#isPriced ? this.#costNanoDollars : null;
  }

  /** Sets the route whose price applies from now on. */
  take({ price }: Route): void {
    this.#price = price ?? FREE;
    this.#isPriced = price != null;
  }

  get isSlotWanted(): boolean {
    return this.#turn?.isWanted() ?? false;
  }

  /** While an answer arrives, it costs at least what was expected. */
  progress({ promptTokens, completionTokens }: TokenCounts): void {
    this.#charge(promptTokens, Math.max(completionTokens, this.#expectedOutput));
  }

  /**
   * Call when the upstream has answered or failed midway. Idempotent, like `release`.
   * @param isLeft the caller has left an answer that comes as a whole: unless its counts are known, the upstream may
   * have written all that was reserved
   */
  end(counts: TokenCounts, isLeft = false): void {
    const { promptTokens, completionTokens } = counts;
    const isUnknown = isLeft && counts.estimated;
    const expected = isUnknown ? this.#expectedOutput : 0;
    this.#charge(promptTokens, Math.max(completionTokens, expected));
    const { outputTokens = 0, limitsOutput = false } = this.#reservation ?? {};
    const most = isUnknown && limitsOutput ? outputTokens : 0;
    const used = { ...counts, completionTokens: Math.max(completionTokens, most) };
    this.#costNanoDollars = costOf(this.#price, used);
    this.#reservation?.settle({
      inputTokens: promptTokens,
      outputTokens: used.completionTokens,
      costNanoDollars: this.#costNanoDollars,
    });
    this.#turn?.release();
  }

  #charge(inputTokens: number, outputTokens: number): void {
    this.#turn?.charge(Math.max(inputTokens, this.#soundTokens), outputTokens);
  }

  /** Call if no upstream got the request. */
  release(): void {
    this.#reservation?.release();
    this.#turn?.release();
  }
}

/** Within the host's budget, a tenant's sandboxes together count as one more holder, which leaves a part to others. */
function sharesOf(context: AdmissionContext): readonly BudgetShare[] {
  const { account, sandboxId, policy, tenantOf, sharedBudgets } = context;
  const { budget = {} } = policy;
  const tenant = tenantOf(sandboxId);
  const groups = tenant === null ? [] : [tenantAccount(tenant)];
  return [
    ...(Object.keys(budget).length === 0 ? [] : [{ account, limits: budget }]),
    ...sharedBudgets(tenant).map((shared) => ({
      ...shared,
      holders: shared.account === HOST_ACCOUNT ? [account, ...groups] : [account],
    })),
  ];
}

const mostOf = (output: OutputLimit | null): number =>
  output === null ? 0 : (output.tokens ?? DEFAULT_OUTPUT_TOKENS) * output.answers;

function answerEdits(
  output: OutputLimit | null,
  reservation: Reservation | undefined,
): Readonly<Record<string, number>> {
  if (output === null || reservation?.limitsOutput !== true) return {};
  const each = Math.floor(reservation.outputTokens / output.answers);
  return output.tokens === null || each < output.tokens ? outputEdits(output, each) : {};
}

const dearest = ({ groups }: Plan): Price => dearestOf(groups.flat().map(({ price }) => price ?? FREE));

const pricedPlan = (plan: Plan): Plan => withRoutes(plan, ({ price }) => price !== null);

function unpriced(model: string): Checked<never> {
  const message =
    `The model ${JSON.stringify(model.slice(0, MODEL_CHARACTERS_SHOWN_MAX))} is served outside this host at a price that ` +
    'is unknown, and a limit of cost holds for this sandbox. Its price belongs into models.toml on the host.';
  return refused(403, 'model_unpriced', message, { param: 'model' });
}
