/**
 * Records of leases: the policy as written, which the kernel does not keep. Other processes show them (`neurovisor
 * net`); no decision depends on them.
 */
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseSandboxId, type SandboxId } from '../../../base/ids.ts';
import { tryOr } from '../../../base/ignore.ts';
import { isRunning } from '../../../sys/process-start.ts';
import type { TableOwner } from '../nftables/table-owners.ts';
import type { EgressPolicyText } from '../policy/egress-rules.ts';
import type { EgressPolicy } from '../policy/policy.ts';
import type { GatewayUse, LeaseLimits } from './lease.ts';

const VERSION = 1;
const SUFFIX = '.lease.json';

interface LeaseRecord {
  readonly version: typeof VERSION;
  readonly owner: TableOwner;
  readonly policy: Required<EgressPolicyText>;
  readonly limits: LeaseLimits;
  /** Up to about two seconds old; absent in files of older versions. */
  readonly use?: GatewayUse | undefined;
}

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
    const path = this.#path(id);
    writeFileSync(`${path}.next`, JSON.stringify(record), { mode: 0o600 });
    renameSync(`${path}.next`, path);
  }

  remove(id: SandboxId): void {
    rmSync(this.#path(id), { force: true });
  }

  /** Undefined if there is none, or it is unreadable. */
  read(id: SandboxId): LeaseRecord | undefined {
    return tryOr(undefined, 'a lease without a record', () => parseRecord(readFileSync(this.#path(id), 'utf8')));
  }

  removeDead(): void {
    mkdirSync(this.#dir, { recursive: true, mode: 0o700 });
    for (const name of readdirSync(this.#dir)) {
      if (!name.endsWith(SUFFIX)) continue;
      const id = parseSandboxId(name.slice(0, -SUFFIX.length));
      if (id === undefined) continue;
      const record = this.read(id);
      if (record === undefined || !isRunning(record.owner)) this.remove(id);
    }
  }

  #path(id: SandboxId): string {
    return join(this.#dir, `${id}${SUFFIX}`);
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

function areUses(list: unknown): boolean {
  return Array.isArray(list) && list.every((one) => typeof one?.name === 'string' && typeof one.bytesMax === 'number');
}

function isUse({ allowed, refused, destinations }: Partial<GatewayUse>): boolean {
  const counts = Object.values(refused ?? {});
  return typeof allowed === 'number' && counts.every((count) => typeof count === 'number') && areUses(destinations);
}
