/** Resolves which models a sandbox may use, and the routes to each (io: the lists of upstreams). */

import { accepted, type Checked, refused } from '../../../base/http/refusal.ts';
import { awaitOr } from '../../../base/ignore.ts';
import { orAborted } from '../../../base/time-limit.ts';
import type { Operation } from '../dialect/dialect.ts';
import { BridgeError } from '../errors.ts';
import {
  type BridgePolicy,
  isForTenant,
  type ModelEntry,
  type ModelUse,
  mayUse,
  resolveModel,
  visibleModels,
} from '../policy.ts';
import { isLocal } from '../upstream/address.ts';
import type { Catalog } from '../upstream/catalog.ts';
import {
  type FallbackCause,
  mayUseHosted,
  ONLY_UPSTREAM,
  type Route,
  type RoutedUpstream,
  type RouteTable,
  tableOf,
  type UpstreamSource,
} from './route-table.ts';
import type { Plan } from './router.ts';

export interface ResolvedModel {
  /** Name in records; without a table, the upstream's name. */
  readonly model: string;
  readonly plan: Plan;
}

/** `none`: uses only what needs no upstream. `fresh`: asks again, unless that was done just now. */
type Lists = 'none' | 'cached' | 'fresh';

const NO_FALLBACK: ReadonlySet<FallbackCause> = new Set();
/** Between servers that list the same model. */
const REPLICA_FALLBACK: ReadonlySet<FallbackCause> = new Set(['connect', '429', '5xx']);

export class ModelNames {
  readonly #source: UpstreamSource;
  readonly #table: RouteTable;
  readonly #catalog: Catalog;

  constructor(source: UpstreamSource, catalog: Catalog) {
    this.#source = source;
    this.#table = tableOf(source);
    this.#catalog = catalog;
  }

  /** The models that a sandbox sees. @throws BridgeError `upstream_unreachable` */
  async visible(policy: BridgePolicy, signal: AbortSignal): Promise<readonly ModelEntry[]> {
    const listed = await this.#listed(policy, 'fresh', signal);
    if (listed === null && policy.allowModels === undefined) {
      throw new BridgeError('upstream_unreachable', 'ask the model server for its models');
    }
    const models = visibleModels(policy, listed);
    if (typeof this.#source === 'function') return models;
    const usable = new Set(listed?.map(({ id }) => id));
    const { aliases = {} } = policy;
    return models.filter(({ id }) => usable.has((Object.hasOwn(aliases, id) ? aliases[id] : id) ?? id));
  }

  /** One of them, under the name that the sandbox uses. @throws BridgeError as `visible` */
  async entry(id: string, policy: BridgePolicy, signal: AbortSignal): Promise<Checked<ModelEntry>> {
    const visible = await this.visible(policy, signal);
    const resolved = await this.resolve(id, policy, 'text', signal);
    if (!resolved.ok) return resolved;
    const model = visible.find((one) => one.id === id || one.id === resolved.value.model);
    return accepted({ created: 0, ownedBy: 'neurovisor', ...model, id });
  }

  async resolve(
    asked: string | undefined,
    policy: BridgePolicy,
    use: ModelUse,
    signal: AbortSignal,
  ): Promise<Checked<ResolvedModel>> {
    const { aliases = {}, allowModels } = policy;
    const isAlias = asked !== undefined && Object.hasOwn(aliases, asked);
    if (isAlias || allowModels !== undefined || this.#table.models.has(asked ?? '')) {
      return this.#resolve(asked, policy, use, 'none', signal);
    }
    const resolved = await this.#resolve(asked, policy, use, 'cached', signal);
    return resolved.ok ? resolved : this.#resolve(asked, policy, use, 'fresh', signal);
  }

  async #resolve(
    asked: string | undefined,
    policy: BridgePolicy,
    use: ModelUse,
    lists: Lists,
    signal: AbortSignal,
  ): Promise<Checked<ResolvedModel>> {
    const listed = await this.#listed(policy, lists, signal);
    const names = listed?.map(({ id }) => id) ?? null;
    const resolved = resolveModel(asked, policy, names, use);
    if (!resolved.ok) {
      const isHosted = asked !== undefined && this.#table.models.has(asked) && isForTenant(asked, policy);
      return isHosted ? hostedModel(asked) : resolved;
    }
    const model = resolved.value;
    const plan = await this.#plan(model, policy, signal);
    if (plan.groups.length > 0) return accepted({ model, plan });
    if (this.#table.models.has(model)) return hostedModel(model);
    const message = `No model server offers the model ${shown(model)}.`;
    return refused(404, 'model_not_found', message, { param: 'model' });
  }

  async #plan(model: string, policy: BridgePolicy, signal: AbortSignal): Promise<Plan> {
    if (typeof this.#source === 'function') {
      // Without a table there are no prices, and a remote server may charge.
      const target = await orAborted(this.#source(), signal);
      return { ...onlyPlan(model, isLocal(target) ? {} : { price: null }), target };
    }
    const { upstreams, models } = this.#table;
    const routed = models.get(model);
    if (routed !== undefined) {
      const groups = this.#groups(model, policy);
      return { model, groups, fallbackOn: routed.fallbackOn, upstreams };
    }
    const lists = await this.#discovered(policy, 'cached', signal);
    const routes = lists
      .filter(({ entries }) => entries.some(({ id }) => id === model))
      .map(({ upstream: { name: upstream, isHosted } }) => {
        return { upstream, model, weight: 1, ...(isHosted ? { price: null } : {}) };
      });
    const groups = routes.length === 0 ? [] : [routes];
    return { model, groups, fallbackOn: REPLICA_FALLBACK, upstreams };
  }

  /** The permitted routes of a model of the table, and those of its fallbacks. */
  #groups(model: string, policy: BridgePolicy): Plan['groups'] {
    const { upstreams, models } = this.#table;
    const hosted = new Set(upstreams.filter((one) => one.isHosted).map(({ name }) => name));
    const fallback = models.get(model)?.fallback.filter((name) => mayUse(name, policy)) ?? [];
    return [model, ...fallback]
      .map((name) => {
        const isAllowed = mayUseHosted(name, policy.allowHosted);
        const routes = models.get(name)?.routes ?? [];
        return routes.filter(({ upstream }) => isAllowed || !hosted.has(upstream));
      })
      .filter(({ length }) => length > 0);
  }

  /** The models that a sandbox may use, before its allowlist; `null` if unknown, and then any name may be one. */
  async #listed(policy: BridgePolicy, lists: Lists, signal: AbortSignal): Promise<readonly ModelEntry[] | null> {
    if (typeof this.#source === 'function') {
      if (lists === 'none') return null;
      const target = await orAborted(this.#source(), signal);
      const list = lists === 'fresh' ? this.#catalog.refresh(target) : this.#catalog.models(target);
      return orAborted(list, signal);
    }
    const names = [...this.#table.models.keys()];
    const own = names
      .filter((name) => this.#groups(name, policy).length > 0)
      .map((id) => ({ id, created: 0, ownedBy: 'neurovisor' }));
    if (lists === 'none') return own;
    const found = (await this.#discovered(policy, lists, signal)).flatMap(({ entries }) => entries);
    const all = new Map([...found, ...own].map((entry) => [entry.id, entry]));
    return [...all.values()];
  }

  /** Listed models that the sandbox may use, by upstream. A model of the table has only the routes named there. */
  async #discovered(
    { allowHosted }: BridgePolicy,
    lists: Exclude<Lists, 'none'>,
    signal: AbortSignal,
  ): Promise<readonly { readonly upstream: RoutedUpstream; readonly entries: readonly ModelEntry[] }[]> {
    const asked = this.#table.upstreams.filter(
      ({ discover, isHosted }) => discover && (!isHosted || (allowHosted?.length ?? 0) > 0),
    );
    const found = asked.map(async (upstream) => {
      const entries = await this.#list(upstream, lists);
      return {
        upstream,
        entries: entries.filter(
          ({ id }) => !this.#table.models.has(id) && (!upstream.isHosted || mayUseHosted(id, allowHosted)),
        ),
      };
    });
    return orAborted(Promise.all(found), signal);
  }

  /** Empty if the upstream can't be asked: others may serve the request. */
  async #list({ target, models }: RoutedUpstream, lists: Exclude<Lists, 'none'>): Promise<readonly ModelEntry[]> {
    if (models !== undefined) return models.map((id) => ({ id, created: 0, ownedBy: 'neurovisor' }));
    return await awaitOr([], 'an attempt reports it', async () => {
      const there = await target();
      const list = lists === 'fresh' ? await this.#catalog.refresh(there) : await this.#catalog.models(there);
      return list ?? [];
    });
  }
}

/**
 * The model of a recorded answer, if the sandbox may use the requested one.
 * @param played the upstream's name for the model that answered
 */
export function playedModel(
  played: string,
  asked: string | undefined,
  policy: BridgePolicy,
  use: ModelUse,
): Checked<ResolvedModel> {
  if (policy.allowModels !== undefined || policy.tenantModels !== undefined) {
    const allowed = resolveModel(asked, policy, null, use);
    if (!allowed.ok) return allowed;
  }
  return accepted({ model: played, plan: onlyPlan(played) });
}

export function useOf({ generates, audio }: Operation): ModelUse {
  if (audio !== undefined) return 'named';
  return generates ? 'text' : 'embeddings';
}

export function onlyPlan(model: string, price: Pick<Route, 'price'> = {}): Plan {
  const routes = [{ upstream: ONLY_UPSTREAM, model, weight: 1, ...price }];
  return { model, groups: [routes], fallbackOn: NO_FALLBACK };
}

const MODEL_CHARACTERS_SHOWN_MAX = 100;
const shown = (model: string): string => JSON.stringify(model.slice(0, MODEL_CHARACTERS_SHOWN_MAX));

function hostedModel(model: string): Checked<never> {
  const message =
    `The model ${shown(model)} is served outside this host, and this sandbox may not send prompts there. ` +
    `To allow it, create the sandbox with --allow-hosted ${model.slice(0, MODEL_CHARACTERS_SHOWN_MAX)}.`;
  return refused(403, 'model_hosted', message, { param: 'model' });
}
