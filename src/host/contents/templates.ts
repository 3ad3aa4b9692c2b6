/** Templates of a home. Listing and removing needs no VM. */
import { READY_MADE } from '../../artifacts/ready-made.ts';
import { nearNames } from '../../base/text/near-names.ts';
import type { HomeTemplates } from '../../sandbox/contract/contents.ts';
import type { PoolMembers } from '../../sandbox/contract/control.ts';
import { SandboxError } from '../../sandbox/contract/errors.ts';
import type { ListedTemplate } from '../../sandbox/contract/schema/contents.ts';
import type { TemplateCreation } from '../../sandbox/contract/schema/request.ts';
import { isSetUp, keptTemplates, removeTemplate } from '../runtime/kept-templates.ts';
import { listTemplates, removeNamed } from '../runtime/named-templates/listing.ts';
import { checkNewName, checkRemovable, TemplateNames } from '../runtime/named-templates/names.ts';
import { importTemplate, pullTemplate } from '../runtime/named-templates/transfer.ts';
import { type ContentsWorld, requireHostFiles } from './world.ts';

export function homeTemplates(world: ContentsWorld): HomeTemplates {
  const names = new TemplateNames(world.home.dir);
  const { cacheDir } = world.home;
  return {
    /** Does not set the machine up: without set-up, no template is current. */
    async list() {
      const isEmpty = (await keptTemplates(cacheDir)).length === 0;
      if (isEmpty || !(await isSetUp(world.context()))) return await listTemplates(cacheDir, names);
      return await (await world.runtime()).templates.list();
    },

    async create(request, work) {
      const { members, start, name } = creationOf(request);
      const runtime = await world.runtime();
      const template = await runtime.templateSource.prepareTemplate(members, start, world.context(work));
      if (name !== undefined) await runtime.templates.setName(name, template);
      return findTemplate(await runtime.templates.list(), template.key);
    },

    async remove(texts) {
      const context = world.context();
      const list = await listTemplates(cacheDir, names);
      const found: { readonly name?: string; readonly key?: string }[] = [];
      for (const text of texts) {
        if (!(await names.has(text))) found.push({ key: findTemplate(list, text).key ?? '' });
        else {
          checkRemovable(text);
          found.push({ name: text });
        }
      }
      const removed: string[] = [];
      for (const { name, key } of found) {
        if (name !== undefined) removed.push(name, ...(await removeNamed(context, names, name)));
        else if (key !== undefined && (await removeTemplate(context, key))) removed.push(key);
      }
      return removed;
    },

    async import(dir, name, work) {
      requireHostFiles(work, dir);
      return await importTemplate(world.context(work), names, dir, name);
    },

    pull: (reference, name, work) => pullTemplate(world.context(work), names, reference, name),
  };
}

/** A ready-made name means its template; any other is given to the one that is built. @throws SandboxError `spec_invalid` */
function creationOf({
  name,
  start,
  ...members
}: TemplateCreation): TemplateCreation & { readonly members: PoolMembers } {
  if (name !== undefined && start === undefined && READY_MADE.has(name)) {
    return { members: { ...members, template: name } };
  }
  if (name !== undefined) checkNewName(name);
  return { name, start, members };
}

/**
 * The template of this name or key.
 * @throws SandboxError `not_found`: the text is no name, and not a prefix of exactly one key
 */
export function findTemplate(list: readonly ListedTemplate[], text: string): ListedTemplate {
  const named = list.filter(({ names }) => names.includes(text));
  const best =
    named.find(({ current, spec }) => current && spec.card !== true) ??
    named.find(({ current }) => current) ??
    named[0];
  if (best !== undefined) return best;
  const matching = text === '' ? [] : list.filter(({ key }) => key?.startsWith(text) === true);
  const [one] = matching;
  if (one !== undefined && matching.length === 1) return one;
  const what = one === undefined ? 'unknown template' : 'ambiguous template key';
  const near = nearNames(
    text,
    list.flatMap(({ names }) => names),
  );
  const guess = one === undefined && near.length > 0 ? `did you mean ${near.join(' or ')}? ` : '';
  throw new SandboxError('not_found', `${what} "${text.slice(0, 80)}"`, {
    remedy: `${guess}list templates with: neurovisor template ls`,
  });
}
