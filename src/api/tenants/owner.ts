/** The owner of a sandbox or snapshot, one of its annotations: users can't set it, and forks and snapshots keep it. */
import type { SandboxInfo, SnapshotInfo } from '../../sandbox/contract/control.ts';
import { TenantError } from './errors.ts';
import { TENANT_NAME } from './limits.ts';

const KEY = 'tenant';

type Annotations = SandboxInfo['annotations'];

/** `null` for the operator's. */
export function ownerOf({ annotations }: { readonly annotations: Annotations }): string | null {
  return Object.hasOwn(annotations, KEY) ? (annotations[KEY] ?? null) : null;
}

/** @throws TenantError `invalid` */
export function checkTenantName(name: string): void {
  if (TENANT_NAME.test(name)) return;
  throw new TenantError('invalid', `"${name}" is not a valid tenant name`, {
    remedy: 'use up to 31 lowercase letters, digits, _ and -, beginning with a letter or digit',
  });
}

/** Its name where the host counts, shares and encrypts for owners. @param tenant `null` for the operator */
export const ownerName = (tenant: string | null): string => (tenant === null ? 'operator' : `tenant ${tenant}`);

/** Names of sandboxes and snapshots are unique on a host, so a tenant's are stored with the tenant's name. */
export const nameOnHost = (owner: string, name: string): string => `${owner}/${name}`;

/** The name of a sandbox or snapshot as its owner gave it. */
export function ownName(info: Pick<SnapshotInfo, 'name' | 'annotations'>): string | null {
  const owner = ownerOf(info);
  const prefix = owner === null ? '' : nameOnHost(owner, '');
  return info.name?.startsWith(prefix) === true ? info.name.slice(prefix.length) : info.name;
}

/** @param owner `null` for the operator */
export function withOwner(annotations: Annotations | undefined, owner: string | null): Annotations {
  const { [KEY]: _other, ...rest } = annotations ?? {};
  return owner === null ? rest : { ...rest, [KEY]: owner };
}
