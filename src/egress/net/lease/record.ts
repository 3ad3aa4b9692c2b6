/**
 * Records of leases: the policy as written, which the kernel does not keep. Other processes show them (`neurovisor
 * net`). One decision depends on them: where the budgets of a killed process's leases go on (`LeftUse`).
 */
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseSandboxId, type SandboxId } from '../../../base/ids.ts';
import { tryOr } from '../../../base/ignore.ts';
import { isRunning } from '../../../sys/process-start.ts';
import type { TableOwner } from '../nftables/table-owners.ts';
import type { BytesByName } from '../policy/destination-budgets.ts';
import type { EgressPolicyText } from '../policy/egress-rules.ts';
import type { EgressPolicy } from '../policy/policy.ts';
import type { GatewayUse, LeaseLimits } from './lease.ts';

const VERSION = 1;
const SUFFIX = '.lease.json';
const USE_SUFFIX = '.used.json';
/** The next lease comes with the next daemon, within seconds. */
const USE_KEPT_MS = 3_600_000;

interface LeaseRecord {
  readonly version: typeof VERSION;
  readonly owner: TableOwner;
  readonly policy: Required<EgressPolicyText>;
  readonly limits: LeaseLimits;
  /** Up to about two seconds old; absent in files of older versions. */
  readonly use?: GatewayUse | undefined;
}

/** Used parts of the budgets of a lease that a killed process had. */
export interface LeftUse {
  readonly bytesUsed: number;
  readonly destinationBytesUsed: BytesByName;
}

const NO_USE: LeftUse = { bytesUsed: 0, destinationBytesUsed: {} };

/** One directory, shared by all processes of the host. Methods throw Node's `fs` errors. */
export class LeaseRecords {
  readonly #dir: string;

  constructor(dir: string) {
    this.#dir = dir;
  }

  /** Atomic. */
  write(
    id: SandboxId,
    owner: TableOwner,
    { mode, allow, deny }: EgressPolicy,
    limits: LeaseLimits,
    use?: GatewayUse,
  ): void {
    const text = (rules: EgressPolicy['allow']): string[] => rules.map((rule) => rule.text);
    const policy = { mode, allow: text(allow), deny: text(deny) };
    const record: LeaseRecord = { version: VERSION, owner, policy, limits, use };
    mkdirSync(this.#dir, { recursive: true, mode: 0o700 });
    this.#replace(this.#path(id), record);
  }

  #replace(path: string, value: unknown): void {
    writeFileSync(`${path}.next`, JSON.stringify(value), { mode: 0o600 });
    renameSync(`${path}.next`, path);
  }

  remove(id: SandboxId): void {
    rmSync(this.#path(id), { force: true });
  }

  /** Undefined if there is none, or it is unreadable. */
  read(id: SandboxId): LeaseRecord | undefined {
    return tryOr(undefined, 'a lease without a record', () => parseRecord(readFileSync(this.#path(id), 'utf8')));
  }

  /**
   * Keeps what the leases of dead processes used of their budgets; call it before their rules are removed, whichever
   * process removes them. Use that the kernel no longer has counts as all of the budget.
   * @param budgets used bytes in the kernel
   */
  keepUse(budgets: ReadonlyMap<SandboxId, number>): void {
    for (const id of this.#ids(SUFFIX)) {
      const record = this.read(id);
      if (record === undefined || isRunning(record.owner)) continue;
      const { limits, use } = record;
      const names = use?.destinations ?? [];
      if (limits.bytesMax === undefined && names.length === 0) continue;
      const path = this.#path(id, USE_SUFFIX);
      const known = tryOr(undefined, 'the first reading', () => parseUse(readFileSync(path, 'utf8')));
      const bytesUsed = budgets.get(id) ?? known?.bytesUsed ?? limits.bytesMax ?? 0;
      const byName = Object.fromEntries(names.map((each) => [each.name, each.bytesUsed]));
      this.#replace(path, widestUse({ bytesUsed, destinationBytesUsed: byName }, known));
    }
  }

  /** What `keepUse` kept. */
  leftUse(id: SandboxId): LeftUse {
    const read = (): LeftUse => parseUse(readFileSync(this.#path(id, USE_SUFFIX), 'utf8'));
    return tryOr(NO_USE, 'no process had a lease for it', read);
  }

  /** Call it once a lease counts it. */
  forgetUse(id: SandboxId): void {
    rmSync(this.#path(id, USE_SUFFIX), { force: true });
  }

  removeDead(nowMs: number): void {
    for (const id of this.#ids(SUFFIX)) {
      const record = this.read(id);
      if (record === undefined || !isRunning(record.owner)) this.remove(id);
    }
    for (const id of this.#ids(USE_SUFFIX)) {
      if (statSync(this.#path(id, USE_SUFFIX)).mtimeMs < nowMs - USE_KEPT_MS) this.forgetUse(id);
    }
  }

  #ids(suffix: string): SandboxId[] {
    mkdirSync(this.#dir, { recursive: true, mode: 0o700 });
    const names = readdirSync(this.#dir).filter((name) => name.endsWith(suffix));
    return names.flatMap((name) => parseSandboxId(name.slice(0, -suffix.length)) ?? []);
  }

  #path(id: SandboxId, suffix = SUFFIX): string {
    return join(this.#dir, `${id}${suffix}`);
  }
}

function parseRecord(text: string): LeaseRecord | undefined {
  const value = (JSON.parse(text) as Partial<LeaseRecord> | null) ?? {};
  const { version, owner, policy, limits = {}, use } = value;
  const isList = (list: unknown): boolean => Array.isArray(list) && list.every((rule) => typeof rule === 'string');
  const isWhole =
    version === VERSION &&
    typeof owner?.pid === 'number' &&
    typeof owner.startTicks === 'string' &&
    typeof policy?.mode === 'string' &&
    isList(policy.allow) &&
    isList(policy.deny) &&
    Object.values({ ...limits, destinations: 0 }).every((limit) => typeof limit === 'number') &&
    areUses(limits.destinations ?? []) &&
    (use === undefined || isUse(use));
  return isWhole ? { version, owner, policy, limits, use } : undefined;
}

/** The larger use of each budget. */
export function widestUse(one: LeftUse, other: LeftUse = NO_USE): LeftUse {
  const byName = { ...other.destinationBytesUsed };
  for (const [name, bytes] of Object.entries(one.destinationBytesUsed)) {
    byName[name] = Math.max(bytes, byName[name] ?? 0);
  }
  return { bytesUsed: Math.max(one.bytesUsed, other.bytesUsed), destinationBytesUsed: byName };
}

/** @throws Error: it is damaged */
function parseUse(text: string): LeftUse {
  const { bytesUsed, destinationBytesUsed = {} } = JSON.parse(text) as Partial<LeftUse>;
  const counts = [bytesUsed, ...Object.values(destinationBytesUsed)];
  if (!counts.every((count) => Number.isSafeInteger(count))) throw new Error('a damaged record');
  return { bytesUsed: bytesUsed ?? 0, destinationBytesUsed };
}

function areUses(list: unknown): boolean {
  return Array.isArray(list) && list.every((one) => typeof one?.name === 'string' && typeof one.bytesMax === 'number');
}

function isUse({ allowed, refused, destinations }: Partial<GatewayUse>): boolean {
  const counts = Object.values(refused ?? {});
  return typeof allowed === 'number' && counts.every((count) => typeof count === 'number') && areUses(destinations);
}
