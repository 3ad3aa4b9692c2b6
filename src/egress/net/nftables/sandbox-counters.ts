/** The counters of each sandbox in the packet filter. Pure. */
import { parseSandboxId, type SandboxId } from '../../../base/ids.ts';
import type { NftObject } from './json.ts';

/**
 * Every packet from a guest counts as `seen`, and then as `sent`, `host` or one of the reasons to drop it, unless the
 * kernel has no route for it.
 */
const SENT_COUNTERS = {
  /** Everything from the TAP. */
  seen: 'from the guest',
  /** Forwarded to the network. */
  sent: 'forwarded',
  /** Accepted by our resolver, gateway or another declared port of the host. */
  host: 'to a declared port of the host',
} as const;

export const DROP_COUNTERS = {
  spoofed: 'with a foreign MAC or source address',
  ipv6: 'of IPv6',
  metadata: 'to a metadata service',
  rate: 'beyond the bandwidth, of both directions, or too fast for our resolver or gateway',
  budget: 'beyond the byte budget, of both directions',
  connections: 'that would open a connection beyond the limit',
  invalid: 'of an unknown connection',
  guests: 'to another sandbox',
  undeclared: 'to an undeclared port of the host',
  denied: 'to a destination that a rule denies',
  private: 'to a private range',
  unlisted: 'to a destination that no rule allows',
} as const;

const RECEIVED_COUNTERS = {
  /** Replies, and packets of this process's marked sockets. */
  received: 'to the guest',
  unasked: 'to the guest, not of a connection that it opened',
} as const;

const COUNTERS = { ...SENT_COUNTERS, ...DROP_COUNTERS, ...RECEIVED_COUNTERS } as const;
export type CounterName = keyof typeof COUNTERS;
export const COUNTER_NAMES = Object.keys(COUNTERS) as readonly CounterName[];

export interface Count {
  readonly packets: number;
  readonly bytes: number;
}

export interface SandboxTraffic {
  readonly counts: Readonly<Record<CounterName, Count>>;
  /** Both directions, since the sandbox was added. */
  readonly budgetBytesUsed: number;
}

export function counterOf(id: SandboxId, name: CounterName): string {
  return `${name}_${id}`;
}

export function budgetOf(id: SandboxId): string {
  return `budget_${id}`;
}

/** @param objects from `nft -j list table`, `list counters` or `list quotas`; other objects are ignored */
export function readTraffic(objects: readonly NftObject[]): Map<SandboxId, SandboxTraffic> {
  const counts = new Map<SandboxId, Partial<Record<CounterName, Count>>>();
  const budgets = new Map<SandboxId, number>();
  for (const object of objects) {
    const counter = named(object['counter']);
    const name = COUNTER_NAMES.find((known) => known === counter?.prefix);
    if (counter !== undefined && name !== undefined) {
      const known = counts.get(counter.id) ?? {};
      known[name] = { packets: whole(counter.fields['packets']), bytes: whole(counter.fields['bytes']) };
      counts.set(counter.id, known);
    }
    const quota = named(object['quota']);
    const used = readBudget(object);
    if (quota !== undefined && used !== undefined) budgets.set(quota.id, used);
  }
  return new Map(
    [...counts].map(([id, known]) => [id, { counts: { ...NOTHING, ...known }, budgetBytesUsed: budgets.get(id) ?? 0 }]),
  );
}

/** Used bytes of all budgets, by sandbox. */
export function readBudgets(objects: readonly NftObject[]): Map<SandboxId, number> {
  return new Map(
    objects.flatMap((object) => {
      const quota = named(object['quota']);
      const used = readBudget(object);
      return quota === undefined || used === undefined ? [] : [[quota.id, used] as const];
    }),
  );
}

/** Used bytes of a budget; undefined for another object. */
export function readBudget(object: NftObject): number | undefined {
  const quota = named(object['quota']);
  return quota?.prefix === 'budget' ? whole(quota.fields['used']) : undefined;
}

const NOTHING = Object.fromEntries(COUNTER_NAMES.map((name) => [name, { packets: 0, bytes: 0 }])) as Record<
  CounterName,
  Count
>;

function named(
  value: unknown,
): { prefix: string; id: SandboxId; fields: Readonly<Record<string, unknown>> } | undefined {
  if (typeof value !== 'object' || value === null || !('name' in value)) return undefined;
  const match = /^([a-z0-9]+)_([a-z0-9]+)$/.exec(String(value.name));
  const id = parseSandboxId(match?.[2] ?? '');
  return id === undefined ? undefined : { prefix: match?.[1] ?? '', id, fields: { ...value } };
}

function whole(value: unknown): number {
  return typeof value === 'number' && value >= 0 ? value : 0;
}
