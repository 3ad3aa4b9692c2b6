/** Converts a client's steps to ours. Pure, except for looking up uploaded archives. */

import type { TemplateStep } from '../../../sandbox/contract/template-step.ts';
import { E2bError } from '../errors.ts';
import type { TemplateBuild, TemplateStart } from '../parts.ts';
import type { BuildBody, StepBody } from './schema.ts';
import { FILES_HASH, type UploadedArchive } from './uploads.ts';

const VARIABLE = /^[A-Za-z_][A-Za-z0-9_]{0,255}$/;
const USER = /^[\w.$-]{1,64}(:[\w.$-]{1,64})?$/;
const MODE = /^[0-7]{3,4}$/;

/** @param archive returns that of a step's number and hash. @throws E2bError 400 */
export async function readSteps(
  steps: readonly StepBody[],
  archive: (step: number, hash: string) => Promise<UploadedArchive | undefined>,
): Promise<readonly TemplateStep[]> {
  const read: TemplateStep[] = [];
  for (const [index, step] of steps.entries()) read.push(await readStep(step, index + 1, archive));
  return read;
}

async function readStep(
  { type, args, filesHash, force }: StepBody,
  number: number,
  archive: (step: number, hash: string) => Promise<UploadedArchive | undefined>,
): Promise<TemplateStep> {
  const isFresh = force === true;
  const given = args ?? [];
  const [first = '', second = '', third = '', fourth = ''] = given;
  const wrong = (why: string): E2bError => new E2bError(400, `step ${number}: ${type} ${why}`);
  const user = (text: string): string | null => {
    if (text === '') return null;
    if (!USER.test(text)) throw wrong(`has no valid user "${text.slice(0, 80)}"`);
    return text;
  };
  if (given.some((text) => text.includes('\0'))) throw wrong('has a NUL character');
  switch (type.toUpperCase()) {
    case 'RUN':
      if (first.trim() === '') throw wrong('has no command');
      return { kind: 'run', isFresh, command: first, user: user(second) };
    case 'COPY': {
      if (first === '' || second === '') throw wrong('needs a source and a destination');
      if (fourth !== '' && !MODE.test(fourth)) throw wrong('has no valid mode');
      if (!FILES_HASH.test(filesHash ?? '')) throw wrong('has no valid hash of its files');
      const found = await archive(number, filesHash ?? '');
      if (found === undefined) throw wrong('has files that were not uploaded');
      const mode = fourth === '' ? null : fourth;
      const paths = { source: first, target: second };
      return { kind: 'copy', isFresh, archive: found, ...paths, owner: user(third), mode };
    }
    case 'ENV': {
      if (given.length === 0 || given.length % 2 !== 0) throw wrong('needs names and values');
      const pairs = given.flatMap((name, at) => (at % 2 === 0 ? [[name, given[at + 1] ?? ''] as const] : []));
      const bad = pairs.find(([name]) => !VARIABLE.test(name));
      if (bad !== undefined) throw wrong(`has no valid name "${bad[0].slice(0, 80)}"`);
      return { kind: 'env', isFresh, pairs };
    }
    case 'WORKDIR':
      if (first === '') throw wrong('needs a path');
      return { kind: 'workdir', isFresh, path: first };
    case 'USER': {
      const name = user(first);
      if (name === null) throw wrong('needs a user');
      return { kind: 'user', isFresh, user: name, isSudoer: second === 'true' };
    }
    default:
      throw wrong('is not a step that this server knows');
  }
}

/** E2B's own images, which only its servers can use. */
const OWN_IMAGES: ReadonlyMap<string, string> = new Map([
  ['e2bdev/base', 'base'],
  ['e2bdev/code-interpreter', 'code-interpreter'],
]);

/** The base of the build. @param local our name of a template that a client has built @throws E2bError 400 */
export function readBase(
  { fromImage, fromTemplate, fromImageRegistry }: BuildBody,
  local: (name: string) => string | undefined,
): TemplateBuild['from'] {
  const image = fromImage ?? '';
  const template = fromTemplate ?? '';
  if ((image === '') === (template === '')) {
    throw new E2bError(400, 'one of fromImage and fromTemplate is needed');
  }
  if (fromImageRegistry !== null && fromImageRegistry !== undefined) {
    throw new E2bError(400, 'credentials of a registry are not taken from a request', {
      remedy: 'log in on the machine of the daemon (docker login, or skopeo login) and omit them here',
    });
  }
  if (template !== '') return { kind: 'template', name: local(template) ?? ownName(template) };
  const own = OWN_IMAGES.get(image.replace(/^docker\.io\//, '').replace(/:latest$/, ''));
  return own === undefined ? { kind: 'image', name: image } : { kind: 'template', name: own };
}

const ownName = (text: string): string => {
  const name = text.replace(/:(default|latest)$/, '');
  return name === 'code-interpreter-v1' ? 'code-interpreter' : name;
};

export function readStart({ startCmd, readyCmd }: BuildBody): TemplateStart | null {
  const command = (startCmd ?? '').trim() === '' ? null : (startCmd ?? null);
  const ready = (readyCmd ?? '').trim() === '' ? null : (readyCmd ?? null);
  return command === null && ready === null ? null : { command, ready };
}
