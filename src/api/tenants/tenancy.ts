/** The tenants of a daemon: maps the key of a request to its owner and view. */
import type { ControlPlane } from '../../sandbox/contract/control.ts';
import { type Caller, type Callers, operatorOnly } from './callers.ts';
import type { Asker } from './ceiling.ts';
import type { KeyStore } from './keys.ts';
import { askerOf, type TenantSettings, tenantPlane } from './plane.ts';

export interface TenancyParts extends TenantSettings {
  readonly control: ControlPlane;
  readonly keys: Pick<KeyStore, 'identify' | 'onEnd'>;
  readonly apiKey: string;
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

  onEnd(listener: (keyId: string) => void): () => void {
    return this.#parts.keys.onEnd(listener);
  }

  planeOf(tenant: string | null): ControlPlane {
    const { control } = this.#parts;
    if (tenant === null) return control;
    const known = this.#planes.get(tenant) ?? tenantPlane(control, tenant, this.#parts);
    this.#planes.set(tenant, known);
    return known;
  }

  askerOf(tenant: string | null): Asker | null {
    return tenant === null ? null : askerOf(tenant, this.#parts);
  }
}
