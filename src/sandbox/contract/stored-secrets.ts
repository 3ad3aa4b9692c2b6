/** The role of a control plane that keeps secrets which outlive sandboxes. No method returns a value. */
import type { SecretValue } from '../../base/request/secret-value.ts';

export interface StoredSecrets {
  readonly secrets: SecretStore;
}

export interface SecretStore {
  /**
   * Stores a secret. If it replaces one, the next requests of running sandboxes get the new value.
   * @throws SandboxError `spec_invalid`, `name_taken` unless `replace`, `disk_full`
   */
  set(secret: NewSecret): Promise<StoredSecretInfo>;
  /** By name. */
  list(): Promise<readonly StoredSecretInfo[]>;
  /** @param force even if sandboxes use it: their requests with it are refused from then on. @throws SandboxError `not_found`, `in_use` */
  remove(name: string, force?: boolean): Promise<void>;
}

export interface NewSecret {
  /** For the operator, a tenant's is `TENANT/NAME`. */
  readonly name: string;
  readonly value: string;
  readonly replace?: boolean | undefined;
}

export interface StoredSecretInfo {
  readonly name: string;
  readonly createdAtMs: number;
  /** When the value was last replaced. */
  readonly updatedAtMs: number;
  /** Sandboxes that use it, also paused ones. */
  readonly sandboxes: readonly string[];
}

/** @returns `null`: there is none, or the key that encrypts it is lost */
export type StoredSecretValue = (name: string) => Promise<SecretValue | null>;
