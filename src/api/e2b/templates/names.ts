/** Names of templates as E2B's clients write them: `NAME[:TAG]`, perhaps with a namespace. Pure. */
import { E2bError } from '../errors.ts';

export const DEFAULT_TAG = 'default';
/** Names with another meaning here. */
const RESERVED: ReadonlySet<string> = new Set(['agent', 'base', 'code-interpreter', 'code-interpreter-v1']);
const NAME = /^(?:[a-z0-9][a-z0-9._-]{0,63}\/)?[a-z0-9][a-z0-9._-]{0,127}$/;
const TAG = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/;

export interface TemplateName {
  /** In lower case, as E2B compares them. */
  readonly name: string;
  readonly tag: string | null;
}

/** `null` for an invalid name. */
export function readName(text: string): TemplateName | null {
  const [, name = '', tag] = /^([^:]*)(?::(.*))?$/s.exec(text.trim()) ?? [];
  const lower = name.toLowerCase();
  if (!NAME.test(lower) || (tag !== undefined && !TAG.test(tag))) return null;
  return { name: lower, tag: tag ?? null };
}

/** @throws E2bError 400 */
export function parseName(text: string): TemplateName {
  const read = readName(text);
  if (read !== null) return read;
  throw new E2bError(400, `invalid template name "${text.slice(0, 80)}"`, {
    remedy: 'use NAME or NAME:TAG of letters, digits, dots, hyphens and underscores',
  });
}

/** Parses the name of a template to be built. @throws E2bError 400, 403 */
export function parseNewName(text: string): TemplateName {
  const read = parseName(text);
  if (!RESERVED.has(read.name)) return read;
  throw new E2bError(403, `the template name "${read.name}" is reserved`, { remedy: 'choose another name' });
}

/** @throws E2bError 400 */
export function parseTag(text: string): string {
  if (TAG.test(text)) return text;
  throw new E2bError(400, `invalid tag "${text.slice(0, 80)}"`, {
    remedy: 'use letters, digits, dots, hyphens and underscores',
  });
}

/** Our name of a build's result: an E2B name may be longer, have capitals, or be that of one of our templates. */
export const localNameOf = (buildId: string): string => `e2b-${buildId}`;
