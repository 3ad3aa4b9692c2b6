/** What a client's `templateID` means here. */
import type { ControlPlane, CreateRequest } from '../../sandbox/control.ts';

/** E2B's names of ready-made environments. */
const NAMES: Readonly<Record<string, string>> = { 'code-interpreter-v1': 'code-interpreter' };

/** A snapshot's id or name, or the name of a template. */
export async function sourceOf(
  templateId: string,
  control: Pick<ControlPlane, 'snapshots'>,
): Promise<Pick<CreateRequest, 'snapshot' | 'template'>> {
  const name = templateId.replace(/:(default|latest)$/, '');
  const snapshots = await control.snapshots();
  const snapshot = snapshots.find((one) => one.id === name || one.name === name);
  if (snapshot !== undefined) return { snapshot: snapshot.id };
  return { template: NAMES[name] ?? name };
}
