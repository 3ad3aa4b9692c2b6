/**
 * What the operator of a home sets and reads: keys, tenants, settings of the host, audit logs. One process has the home
 * at a time, the daemon or a command that holds its lock; everybody else asks the daemon.
 *
 *     command, library ──► RemoteAdministration ── HTTP ──► src/api/rest ──► HomeAdministration (of the daemon)
 *     command without a daemon ────────────────────────────────────────────► HomeAdministration (of the command)
 */
import { join } from 'node:path';
import { eraseFile, ownerKeyPath, ownerKeysDir } from '../../base/key-file.ts';
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
import { checkTenantName, ownerName } from './owner.ts';
import type { HostSettings, HostStore, TenantChange, TenantInfo, TenantStore } from './settings.ts';
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
   * Revokes its keys, removes what was set, and erases the key that encrypts its saves. Its sandboxes and snapshots stay,
   * but encrypted ones can't be read any more.
   */
  removeTenant(name: string): Promise<TenantRemoval>;
  settings(): Promise<HostSettings>;
  setSettings(settings: HostSettings): Promise<HostSettings>;
  /** Records, oldest first. */
  audit(listing?: AuditListing): AsyncGenerator<AuditRecord, void, undefined>;
  /** All that the logs have of one request to a model. */
  auditedRequest(seq: number): Promise<AuditedRequest>;
  verifyAudit(): Promise<AuditVerification>;
}

export interface TenantRemoval {
  readonly name: string;
  /** Number of keys that were valid until now. */
  readonly revokedKeys: number;
  /** Whether there was a key that encrypts its saves. */
  readonly erasedSaves: boolean;
}

export interface HomeStores {
  keys(): KeyStore;
  tenants(): TenantStore;
  host(): HostStore;
}

export class HomeAdministration implements Administration {
  readonly #homeDir: string;
  readonly #stores: HomeStores;
  readonly #use: ((tenant: string) => Promise<TenantUse>) | undefined;

  /**
   * @param stores called when one is needed: a damaged file of one kind does not prevent work on another
   * @param use of a daemon
   */
  constructor(homeDir: string, stores: HomeStores, use?: (tenant: string) => Promise<TenantUse>) {
    this.#homeDir = homeDir;
    this.#stores = stores;
    this.#use = use;
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
    if (this.#use !== undefined) return await this.#use(name);
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
    const erasedSaves = await this.#eraseSaves(name);
    const wasSet = this.#stores.tenants().remove(name);
    if (own.length === 0 && !erasedSaves && !wasSet) {
      throw new TenantError('not_found', `there is no tenant ${name}`, { remedy: 'neurovisor tenant ls' });
    }
    return { name, revokedKeys, erasedSaves };
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

  async setSettings(settings: HostSettings): Promise<HostSettings> {
    return this.#stores.host().set(settings);
  }

  audit(listing: AuditListing = {}): AsyncGenerator<AuditRecord, void, undefined> {
    return listAudit(this.#homeDir, listing);
  }

  async auditedRequest(seq: number): Promise<AuditedRequest> {
    return await findRequest(this.#homeDir, seq);
  }

  async verifyAudit(): Promise<AuditVerification> {
    return await checkAudit(this.#homeDir);
  }
}
