/** The tenants of a daemon: maps the key of a request to its owner and view. */
import type { ControlPlane } from '../../sandbox/contract/control.ts';
import { type Caller, type Callers, operatorOnly } from './callers.ts';
import type { KeyStore } from './keys.ts';
import { tenantPlane } from './plane.ts';
import type { StorageQuota } from './storage-quota.ts';

export interface TenancyParts {
  readonly control: ControlPlane;
  readonly keys: Pick<KeyStore, 'identify' | 'onRevoked'>;
  readonly apiKey: string;
  /** Default: unlimited. */
  readonly storage?: StorageQuota | undefined;
  /** Returns the hosted models of a tenant. Default: none. */
  readonly hostedOf?: ((tenant: string) => readonly string[]) | undefined;
}

export class Tenancy implements Callers {
  readonly #parts: TenancyParts;
  readonly #operator: Callers;
  readonly #planes = new Map<string, ControlPlane>();

  constructor(parts: TenancyParts) {
    this.#parts = parts;
    this.#operator = operatorOnly(parts.control, parts.apiKey);
  }

  identify(key: string): Caller | null {
    // Always checks both: the time of an answer must not reveal which one has the key.
    const operator = this.#operator.identify(key);
    const tenant = this.#parts.keys.identify(key);
    return operator ?? tenant;
  }

  onRevoked(listener: (keyId: string) => void): () => void {
    return this.#parts.keys.onRevoked(listener);
  }

  planeOf(tenant: string | null): ControlPlane {
    const { control, storage, hostedOf } = this.#parts;
    if (tenant === null) return control;
    const known = this.#planes.get(tenant) ?? tenantPlane(control, tenant, { storage, hostedOf });
    this.#planes.set(tenant, known);
    return known;
  }
}
