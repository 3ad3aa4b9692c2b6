/**
 * What the operator of a home sets and reads: keys, tenants, settings of the host, audit logs. One process has the home
 * at a time, the daemon or a command that holds its lock; everybody else asks the daemon.
 *
 *     command, library ──► RemoteAdministration ── HTTP ──► src/api/rest ──► HomeAdministration (of the daemon)
 *     command without a daemon ────────────────────────────────────────────► HomeAdministration (of the command)
 */
import { join } from 'node:path';
import { systemClock } from '../../base/clock.ts';
import { ifThere } from '../../base/errors.ts';
import { eraseFile, ownerKeyPath, ownerKeysDir } from '../../base/key-file.ts';
import { silentLog } from '../../base/log.ts';
import type { ControlPlane } from '../../sandbox/contract/control.ts';
import {
  type AuditedRequest,
  type AuditListing,
  type AuditVerification,
  checkAudit,
  findRequest,
  listAudit,
} from './audit-listing.ts';
import type { AuditRecord } from './audit-record.ts';
import { TenantError } from './errors.ts';
import type { CreatedKey, KeyInfo, KeyStore } from './keys.ts';
import { ModelBudgets } from './model-budgets.ts';
import { checkTenantName, nameOnHost, ownerName, ownerOf } from './owner.ts';
import type { HostChange, HostSettings, HostStore, TenantChange, TenantInfo, TenantStore } from './settings.ts';
import type { TenantUse } from './usage.ts';

/** Errors: TenantError here, and what a daemon answers instead: SandboxError, ClientError. */
export interface Administration {
  /** Oldest first, including revoked ones. */
  keys(): Promise<readonly KeyInfo[]>;
  /** @param name label for people; `null` for none */
  createKey(tenant: string, name: string | null, expiresInMs?: number | null): Promise<CreatedKey>;
  /** Refused from now on; what the key has open ends. Does nothing if it is already revoked. */
  revokeKey(id: string): Promise<KeyInfo>;
  /** Those for which something was set, sorted by name. */
  tenants(): Promise<readonly TenantInfo[]>;
  /** With what it inherits. @param name `_default` for what all tenants inherit */
  tenant(name: string): Promise<TenantInfo>;
  /** Only a daemon counts it. */
  tenantUse(name: string): Promise<TenantUse>;
  /** Changes only the given settings, at once. */
  setTenant(name: string, change: TenantChange): Promise<TenantInfo>;
  /**
   * Revokes its keys, ends its sandboxes, removes its snapshots, what was set and its use of budgets, and erases the key
   * that encrypts its saves. Without a daemon, sandboxes and snapshots stay. Its records in the audit logs always do.
   */
  removeTenant(name: string): Promise<TenantRemoval>;
  settings(): Promise<HostSettings>;
  /** Changes only the given settings, at once. */
  setSettings(change: HostChange): Promise<HostSettings>;
  /** Records, oldest first. */
  audit(listing?: AuditListing): AsyncGenerator<AuditRecord, void, undefined>;
  /** All that the logs have of one request to a model. @param tenant whose log; default: the operator's */
  auditedRequest(seq: number, tenant?: string): Promise<AuditedRequest>;
  /** @param tenant whose logs; default: all */
  verifyAudit(tenant?: string): Promise<AuditVerification>;
}

export interface TenantRemoval {
  readonly name: string;
  /** Number of keys that were valid until now. */
  readonly revokedKeys: number;
  readonly endedSandboxes: number;
  readonly removedSnapshots: number;
  readonly removedVolumes: number;
  /** Whether there was a key that encrypts its saves. */
  readonly erasedSaves: boolean;
}

export interface HomeStores {
  keys(): KeyStore;
  tenants(): TenantStore;
  host(): HostStore;
}

export type OwnedRemoval = Pick<TenantRemoval, 'endedSandboxes' | 'removedSnapshots' | 'removedVolumes'>;

/** What only a daemon knows of tenants. */
export interface DaemonAccounts {
  useOf(tenant: string): Promise<TenantUse>;
  /** Ends the tenant's sandboxes and removes its snapshots, volumes and stored secrets. */
  removeOwned(tenant: string): Promise<OwnedRemoval>;
  forgetBudget(tenant: string): void;
}

const NOTHING_OWNED: OwnedRemoval = { endedSandboxes: 0, removedSnapshots: 0, removedVolumes: 0 };

/** @throws SandboxError; what was removed before stays so */
export async function removeOwned(
  control: Pick<
    ControlPlane,
    'list' | 'remove' | 'snapshots' | 'removeSnapshot' | 'volumes' | 'removeVolume' | 'secrets'
  >,
  tenant: string,
): Promise<OwnedRemoval> {
  const sandboxes = (await control.list()).filter((one) => ownerOf(one) === tenant);
  // One may have ended meanwhile.
  await Promise.all(sandboxes.map(({ id }) => ifThere(control.remove(id), 'not_found')));
  const snapshots = (await control.snapshots()).filter((one) => ownerOf(one) === tenant);
  for (const { id } of snapshots) await ifThere(control.removeSnapshot(id), 'not_found');
  const volumes = (await control.volumes()).filter((one) => ownerOf(one) === tenant);
  for (const { name } of volumes) await ifThere(control.removeVolume(name), 'not_found');
  const secrets = (await control.secrets.list()).filter(({ name }) => name.startsWith(nameOnHost(tenant, '')));
  for (const { name } of secrets) await ifThere(control.secrets.remove(name, true), 'not_found');
  return { endedSandboxes: sandboxes.length, removedSnapshots: snapshots.length, removedVolumes: volumes.length };
}

export class HomeAdministration implements Administration {
  readonly #homeDir: string;
  readonly #stores: HomeStores;
  readonly #daemon: DaemonAccounts | undefined;

  /**
   * @param stores called when one is needed: a damaged file of one kind does not prevent work on another
   * @param daemon undefined: none runs
   */
  constructor(homeDir: string, stores: HomeStores, daemon?: DaemonAccounts) {
    this.#homeDir = homeDir;
    this.#stores = stores;
    this.#daemon = daemon;
  }

  async keys(): Promise<readonly KeyInfo[]> {
    return this.#stores.keys().list();
  }

  async createKey(tenant: string, name: string | null, expiresInMs: number | null = null): Promise<CreatedKey> {
    return this.#stores.keys().create(tenant, name, expiresInMs);
  }

  async revokeKey(id: string): Promise<KeyInfo> {
    return this.#stores.keys().revoke(id);
  }

  async tenants(): Promise<readonly TenantInfo[]> {
    return this.#stores.tenants().list();
  }

  async tenant(name: string): Promise<TenantInfo> {
    return this.#stores.tenants().get(name);
  }

  async tenantUse(name: string): Promise<TenantUse> {
    checkTenantName(name);
    if (this.#daemon !== undefined) return await this.#daemon.useOf(name);
    throw new TenantError('not_found', 'no daemon counts what tenants use', { remedy: 'neurovisor serve' });
  }

  async setTenant(name: string, change: TenantChange): Promise<TenantInfo> {
    return this.#stores.tenants().set(name, change);
  }

  async removeTenant(name: string): Promise<TenantRemoval> {
    checkTenantName(name);
    const keys = this.#stores.keys();
    const own = keys.list().filter(({ tenant }) => tenant === name);
    const revokedKeys = own.filter((key) => keys.isValid(key)).length;
    for (const { id } of own) keys.revoke(id);
    const owned = (await this.#daemon?.removeOwned(name)) ?? NOTHING_OWNED;
    const erasedSaves = await this.#eraseSaves(name);
    await this.#forgetBudget(name);
    const wasSet = this.#stores.tenants().remove(name);
    if (own.length === 0 && !erasedSaves && !wasSet) {
      throw new TenantError('not_found', `there is no tenant ${name}`, { remedy: 'neurovisor tenant ls' });
    }
    return { name, revokedKeys, ...owned, erasedSaves };
  }

  async #forgetBudget(tenant: string): Promise<void> {
    if (this.#daemon !== undefined) return this.#daemon.forgetBudget(tenant);
    const parts = { homeDir: this.#homeDir, clock: systemClock, log: silentLog };
    const { tenants, host } = this.#stores;
    await using budgets = await ModelBudgets.open({ ...parts, tenants: tenants(), host: host() });
    budgets.forget(tenant);
  }

  /** @returns false if there was no key. @throws TenantError `file_failed` */
  async #eraseSaves(tenant: string): Promise<boolean> {
    try {
      return await eraseFile(ownerKeyPath(ownerKeysDir(join(this.#homeDir, 'data.key')), ownerName(tenant)));
    } catch (error) {
      throw new TenantError('file_failed', `could not erase the key of tenant ${tenant}`, { cause: error });
    }
  }

  async settings(): Promise<HostSettings> {
    return this.#stores.host().get();
  }

  async setSettings(change: HostChange): Promise<HostSettings> {
    return this.#stores.host().set(change);
  }

  audit(listing: AuditListing = {}): AsyncGenerator<AuditRecord, void, undefined> {
    return listAudit(this.#homeDir, listing);
  }

  async auditedRequest(seq: number, tenant?: string): Promise<AuditedRequest> {
    return await findRequest(this.#homeDir, seq, tenant ?? null);
  }

  async verifyAudit(tenant?: string): Promise<AuditVerification> {
    return await checkAudit(this.#homeDir, tenant);
  }
}
