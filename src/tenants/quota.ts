/**
 * What each tenant uses, and whether it may use more. All counts are kept here and change in one step with the decision,
 * so requests at once never exceed a quota together.
 *
 *     admit ──► reserved ─┬─ runsAs(id) ──► counted by id ◄── changes of the control plane
 *                         └─ release
 */
import { assert } from '../base/assert.ts';
import type { Clock } from '../base/clock.ts';
import { TokenBucket } from '../base/token-bucket.ts';
import type { UsageRecord } from '../bridge/bridge.ts';
import type { ControlPlane, SandboxInfo } from '../sandbox/control.ts';
import { BusyError } from '../sandbox/errors.ts';
import type { StartAsked, StartGate, StartReservation } from '../sandbox/start/start-gate.ts';
import { TENANT_LIMITS } from './limits.ts';
import { ownerOf } from './owner.ts';
import type { KnownQuotas, Quotas } from './settings.ts';
import { countedMib } from './usage.ts';

interface Counted {
  readonly tenant: string;
  readonly memoryMib: number;
}

export interface TenantUse {
  readonly sandboxes: number;
  readonly memoryMib: number;
  readonly tokensToday: number;
}

const DAY_MS = 24 * 3600 * 1000;

export class TenantQuotas implements StartGate {
  readonly #quotas: Pick<KnownQuotas, 'of'>;
  readonly #clock: Clock;
  readonly #sandboxes = new Map<string, Counted>();
  readonly #reserved = new Set<Counted & { readonly resumes: string | null }>();
  readonly #starts = new Map<string, TokenBucket>();
  readonly #tokens = new Map<string, { readonly day: number; readonly count: number }>();

  constructor(quotas: Pick<KnownQuotas, 'of'>, clock: Clock) {
    this.#quotas = quotas;
    this.#clock = clock;
  }

  /** Counts the sandboxes of a control plane from now on. @returns the function that stops it */
  async watch(control: Pick<ControlPlane, 'list' | 'onChange'>): Promise<() => void> {
    const stop = control.onChange((info) => this.#note(info));
    for (const info of await control.list()) this.#note(info);
    return stop;
  }

  /** For the bridge: a model request is over. */
  noteUsage({ sandboxId, promptTokens, completionTokens }: UsageRecord): void {
    const tenant = this.#sandboxes.get(sandboxId)?.tenant;
    if (tenant === undefined) return;
    const count = this.#tokensToday(tenant) + promptTokens + completionTokens;
    this.#tokens.set(tenant, { day: this.#day(), count });
  }

  useOf(tenant: string): TenantUse {
    const own = [...this.#sandboxes.values(), ...this.#reserved].filter(
      (one) => one.tenant === tenant,
    );
    // A sandbox that is being resumed is counted already, without memory.
    const sandboxes = own.filter((one) => !('resumes' in one) || one.resumes === null).length;
    const memoryMib = own.reduce((sum, one) => sum + one.memoryMib, 0);
    return { sandboxes, memoryMib, tokensToday: this.#tokensToday(tenant) };
  }

  ownerOf(annotations: SandboxInfo['annotations']): string {
    const tenant = ownerOf({ annotations });
    return tenant === null ? 'operator' : `tenant ${tenant}`;
  }

  admit({ annotations, memoryMib, resumes }: StartAsked): StartReservation {
    const tenant = ownerOf({ annotations });
    if (tenant === null) return { runsAs: () => undefined, release: () => undefined };
    const quotas = this.#quotas.of(tenant);
    const use = this.useOf(tenant);
    if (resumes === null) within(tenant, 'sandboxes', use.sandboxes, 1, quotas.sandboxes);
    within(tenant, 'MiB of memory', use.memoryMib, memoryMib, quotas.memoryMib);
    this.#requireTokens(tenant, quotas, use);
    this.#requireStart(tenant, quotas);
    const reserved = { tenant, memoryMib, resumes };
    this.#reserved.add(reserved);
    return {
      runsAs: (id) => {
        if (this.#reserved.delete(reserved)) this.#sandboxes.set(id, { tenant, memoryMib });
      },
      release: () => void this.#reserved.delete(reserved),
    };
  }

  abandoned(id: string): void {
    this.#sandboxes.delete(id);
  }

  #note(info: SandboxInfo): void {
    const tenant = ownerOf(info);
    if (tenant === null) return;
    if (info.status === 'ended') this.#sandboxes.delete(info.id);
    else this.#sandboxes.set(info.id, { tenant, memoryMib: countedMib(info) });
  }

  #requireTokens(tenant: string, { tokensPerDay }: Quotas, { tokensToday }: TenantUse): void {
    if (tokensPerDay === null || tokensToday < tokensPerDay) return;
    const retryMs = DAY_MS - (this.#clock.wall() % DAY_MS);
    throw exceeded(tenant, `${tokensToday} of ${tokensPerDay} tokens of today are used`, retryMs);
  }

  #requireStart(tenant: string, { startsPerSecond }: Quotas): void {
    if (startsPerSecond === null) {
      this.#starts.delete(tenant);
      return;
    }
    if (startsPerSecond === 0) throw exceeded(tenant, '0 starts a second', TENANT_LIMITS.retryMs);
    const now = this.#clock.now();
    const limit = { size: Math.max(1, startsPerSecond), refillPerSecond: startsPerSecond };
    const bucket = this.#starts.get(tenant) ?? new TokenBucket(limit, now);
    bucket.setLimit(limit, now);
    this.#starts.set(tenant, bucket);
    // Whole starts: a bucket is open while a part of a token is left.
    const waitMs = bucket.waitForMs(1, now);
    if (waitMs > 0) throw exceeded(tenant, `${startsPerSecond} starts a second`, waitMs);
    bucket.spend(1);
  }

  #tokensToday(tenant: string): number {
    const noted = this.#tokens.get(tenant);
    return noted?.day === this.#day() ? noted.count : 0;
  }

  #day(): number {
    return Math.floor(this.#clock.wall() / DAY_MS);
  }
}

/** @throws BusyError */
export function within(
  tenant: string,
  what: string,
  used: number,
  more: number,
  most: number | null,
): void {
  assert(used >= 0, 'more was released than used');
  if (most === null || used + more <= most) return;
  const wanted = more > 1 ? `, ${more} more wanted` : '';
  throw exceeded(tenant, `${used} of ${most} ${what} are used${wanted}`, TENANT_LIMITS.retryMs);
}

export function exceeded(tenant: string, why: string, retryMs: number): BusyError {
  return new BusyError(`quota of tenant ${tenant}: ${why}`, Math.ceil(retryMs));
}
