/** Templates with their names: those in the cache, and names whose files are yet to be built. */
import type { LockContext } from '../../../artifacts/image/lock.ts';
import type { ListedTemplate } from '../../../sandbox/contract/schema/contents.ts';
import type { TemplateSpec } from '../../../sandbox/contract/spec.ts';
import { templateKey } from '../../../sandbox/start/template.ts';
import { type KeyNow, keptTemplates, removeTemplate, withNamesLock } from '../kept-templates.ts';
import { AGENT, type TemplateNames } from './names.ts';

/**
 * Named templates first, by name with `agent` at the top; then the others, newest first.
 * @param keyNow see `keptTemplates`
 */
export async function listTemplates(
  cacheDir: string,
  names: TemplateNames,
  keyNow?: KeyNow,
): Promise<readonly ListedTemplate[]> {
  const kept = await keptTemplates(cacheDir, keyNow);
  const named = await names.list();
  const namesOf = (spec: TemplateSpec): readonly string[] =>
    named.filter((one) => isSame(one.spec, spec)).map(({ name }) => name);
  const built = kept.map((info) => ({ ...info, names: namesOf(info.spec) }));
  const missing = named
    .filter(({ spec }) => !kept.some((info) => isSame(info.spec, spec)))
    .map(({ name, spec }) => notBuilt(name, spec));
  return [...built, ...missing].toSorted((a, b) => rank(a) - rank(b) || byName(a, b));
}

/**
 * Removes a name, and the files of its template unless another name has it.
 * @returns keys of the removed files
 * @throws SandboxError `spec_invalid`, `not_found`
 */
export async function removeNamed(
  context: LockContext,
  names: TemplateNames,
  name: string,
): Promise<readonly string[]> {
  const before = await names.list();
  await withNamesLock(context, () => names.remove(name));
  const spec = before.find((one) => one.name === name)?.spec;
  const isShared = before.some((one) => one.name !== name && spec && isSame(one.spec, spec));
  if (spec === undefined || isShared) return [];
  const going = (await keptTemplates(context.cacheDir)).filter((one) => isSame(one.spec, spec));
  for (const { key } of going) await removeTemplate(context, key);
  return going.map(({ key }) => key);
}

function notBuilt(name: string, spec: TemplateSpec): ListedTemplate {
  const none = { key: null, madeAtMs: null, machine: null };
  const digests = { kernelDigest: null, rootImageDigest: null };
  return { names: [name], spec, current: false, ...none, ...digests, modules: [], files: {} };
}

/** Equal specs have the same files, except for the network card. Names of images, for example, make no difference. */
function isSame(a: TemplateSpec, b: TemplateSpec): boolean {
  return keyHere(a) === keyHere(b);
}

/** The host makes no difference between two specs. */
function keyHere({ card: _card, ...spec }: TemplateSpec): string {
  const digests = { kernelDigest: '', rootImageDigest: '' };
  return templateKey({ spec, packageIndex: '', ...digests, machine: '', env: {} });
}

function rank({ names }: ListedTemplate): number {
  if (names.includes(AGENT)) return 0;
  return names.length > 0 ? 1 : 2;
}

function byName({ names: [a = ''] }: ListedTemplate, { names: [b = ''] }: ListedTemplate): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}
