/** Resolves a client's `templateID`. */
import type { ControlPlane, CreateRequest, SandboxInfo, SnapshotInfo } from '../../../sandbox/contract/control.ts';
import { SandboxError } from '../../../sandbox/contract/errors.ts';
import { SNAPSHOT_NAME, SNAPSHOT_REFERENCE } from '../../../sandbox/contract/limits.ts';
import { E2bError } from '../errors.ts';
import type { TemplateSource } from '../parts.ts';

const NAMES: ReadonlyMap<string, string> = new Map([['code-interpreter-v1', 'code-interpreter']]);
const SNAPSHOT_ID = /^[a-z0-9]{20}$/;

export type Source = Pick<CreateRequest, 'snapshot' | 'template'>;

/** Strips the tag that every name has. */
export const plainName = (templateId: string): string => templateId.replace(/:(default|latest)$/, '');

/**
 * Creates from the first of these that exists: a template that a client has built, a snapshot with this id, a template
 * with this name, a snapshot with this name. Lists snapshots only if the text may name one, since that reads the whole
 * store.
 * @throws E2bError 404; errors of `create`
 */
export async function createFrom(
  templateId: string,
  {
    control,
    templates,
  }: { readonly control: Pick<ControlPlane, 'snapshots'>; readonly templates: Pick<TemplateSource, 'localName'> },
  create: (source: Source) => Promise<SandboxInfo>,
): Promise<SandboxInfo> {
  const built = templates.localName(templateId);
  if (built !== undefined) return await create({ template: built });
  const name = plainName(templateId);
  const unknown = (): E2bError =>
    new E2bError(404, `there is no template or snapshot ${JSON.stringify(templateId)}`, {
      remedy: 'neurovisor template ls; neurovisor snapshot ls',
    });
  if (!SNAPSHOT_REFERENCE.test(name)) throw unknown();
  const isTemplate = SNAPSHOT_NAME.test(name);
  const isSnapshot = !isTemplate || SNAPSHOT_ID.test(name);
  const known = isSnapshot ? await findSnapshot(name, control) : undefined;
  if (known !== undefined) return await create({ snapshot: known.id });
  if (!isTemplate) throw unknown();
  try {
    return await create({ template: NAMES.get(name) ?? name });
  } catch (error) {
    if (!(error instanceof SandboxError) || error.code !== 'not_found') throw error;
    const snapshot = await findSnapshot(name, control);
    if (snapshot === undefined) throw unknown();
    return await create({ snapshot: snapshot.id });
  }
}

export async function findSnapshot(
  idOrName: string,
  control: Pick<ControlPlane, 'snapshots'>,
): Promise<SnapshotInfo | undefined> {
  const all = await control.snapshots();
  return all.find(({ id }) => id === idOrName) ?? all.find(({ name }) => name === idOrName);
}
