/** The owner of a sandbox or snapshot, one of its annotations: no user sets those, and forks and snapshots keep them. */
import type { SandboxInfo } from '../sandbox/control.ts';

const KEY = 'tenant';

type Annotations = SandboxInfo['annotations'];

/** Null: the operator's. */
export function ownerOf({ annotations }: { readonly annotations: Annotations }): string | null {
  return Object.hasOwn(annotations, KEY) ? (annotations[KEY] ?? null) : null;
}

/** @param owner null: the operator */
export function withOwner(annotations: Annotations | undefined, owner: string | null): Annotations {
  const { [KEY]: _other, ...rest } = annotations ?? {};
  return owner === null ? rest : { ...rest, [KEY]: owner };
}
