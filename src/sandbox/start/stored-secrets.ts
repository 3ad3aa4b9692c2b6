/** Stored secrets, with the sandboxes that use them. */
import { SecretValue } from '../../base/request/secret-value.ts';
import type { SandboxInfo } from '../contract/control.ts';
import { SandboxError, translateStoreErrors } from '../contract/errors.ts';
import { STORED_SECRET_FAULT, STORED_SECRET_REFERENCE } from '../contract/limits.ts';
import { checkValue, type SecretOptions } from '../contract/secrets.ts';
import type { NewSecret, SecretStore, StoredSecretInfo } from '../contract/stored-secrets.ts';

type SecretRow = Omit<StoredSecretInfo, 'sandboxes'>;

export interface PlaneSecretsParts {
  /** The store's table. Errors: StoreError. */
  readonly storedSecrets: {
    set(name: string, value: SecretValue, replace: boolean): Promise<SecretRow>;
    list(): Promise<readonly SecretRow[]>;
    remove(name: string): Promise<void>;
  };
  /** Called when a value has changed; gives it to the gateway. Default: nothing. */
  readonly onSecret?: ((name: string) => Promise<void>) | undefined;
}

export class PlaneSecrets implements SecretStore {
  readonly #parts: PlaneSecretsParts;
  readonly #sandboxes: () => Promise<readonly Pick<SandboxInfo, 'id' | 'secrets'>[]>;

  /** @param sandboxes those that have not ended */
  constructor(parts: PlaneSecretsParts, sandboxes: () => Promise<readonly Pick<SandboxInfo, 'id' | 'secrets'>[]>) {
    this.#parts = parts;
    this.#sandboxes = sandboxes;
  }

  async set({ name, value, replace = false }: NewSecret): Promise<StoredSecretInfo> {
    if (!STORED_SECRET_REFERENCE.test(name)) {
      throw new SandboxError('spec_invalid', `name of a secret: ${STORED_SECRET_FAULT}`);
    }
    checkValue(name, value);
    const row = await translateStoreErrors(this.#parts.storedSecrets.set(name, new SecretValue(value), replace));
    await this.#parts.onSecret?.(name);
    return { ...row, sandboxes: await this.#usersOf(name) };
  }

  async list(): Promise<readonly StoredSecretInfo[]> {
    const rows = await translateStoreErrors(this.#parts.storedSecrets.list());
    const all = await this.#sandboxes();
    return rows.map((row) => ({ ...row, sandboxes: usersOf(row.name, all) }));
  }

  async remove(name: string, force = false): Promise<void> {
    const users = force ? [] : await this.#usersOf(name);
    if (users.length > 0) {
      throw new SandboxError('in_use', `secret ${name} is used by ${listed(users)}`, {
        remedy: 'remove these sandboxes, or remove the secret anyway: neurovisor secret rm --force',
      });
    }
    await translateStoreErrors(this.#parts.storedSecrets.remove(name));
    await this.#parts.onSecret?.(name);
  }

  /** @throws SandboxError `secrets_missing`: a request names a secret that is not stored */
  async require(secrets: readonly SecretOptions[] = []): Promise<void> {
    const wanted = secrets.flatMap(({ stored }) => stored ?? []);
    if (wanted.length === 0) return;
    const known = new Set((await translateStoreErrors(this.#parts.storedSecrets.list())).map(({ name }) => name));
    const missing = wanted.find((name) => !known.has(name));
    if (missing === undefined) return;
    const name = missing.replace(/^.*\//, '');
    throw new SandboxError('secrets_missing', `there is no stored secret ${name}`, {
      remedy: `store it: neurovisor secret create ${name}; or set the variable ${name} for --secret`,
    });
  }

  async #usersOf(name: string): Promise<readonly string[]> {
    return usersOf(name, await this.#sandboxes());
  }
}

const SHOWN_MAX = 10;

function listed(ids: readonly string[]): string {
  const more = ids.length > SHOWN_MAX ? ` and ${ids.length - SHOWN_MAX} more` : '';
  return `${ids.slice(0, SHOWN_MAX).join(', ')}${more}`;
}

function usersOf(name: string, all: readonly Pick<SandboxInfo, 'id' | 'secrets'>[]): readonly string[] {
  return all.filter(({ secrets }) => secrets.some(({ stored }) => stored === name)).map(({ id }) => id);
}
