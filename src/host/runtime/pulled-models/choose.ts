/** Chooses a model among the GGUF files of a directory or an artifact. Pure. */
import { bytes } from '../../../base/text/bytes.ts';
import { ModelError } from './errors.ts';

export interface Candidate {
  /** File name, or its path below the directory; `null` if it has none. */
  readonly name: string | null;
  readonly bytes: number;
}

/** One file, or the parts of a split model in their order. */
export type Choice<T extends Candidate> = readonly T[];

const PART = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/i;
const PARTS_MAX = 1_000;
/** Projectors for images and sound, shipped beside their model. */
const PROJECTOR = /mmproj/i;
const LISTED_MAX = 20;

/** A model's name by its file: `Qwen3-8B-Q4_K_M` for `…/Qwen3-8B-Q4_K_M-00001-of-00003.gguf`. */
export function stemOf(path: string): string {
  const file = lastOf(path);
  return PART.exec(file)?.[1] ?? file.replace(/\.gguf$/i, '');
}

const lastOf = (path: string): string => path.replace(/^.*\//s, '');

/**
 * @param wanted a file's name, or a unique part of it; undefined if there is only one
 * @param where for messages
 * @throws ModelError `model_not_found`, `model_ambiguous`, `model_invalid`
 */
export function chooseModel<T extends Candidate>(
  candidates: readonly T[],
  wanted: string | undefined,
  where: string,
): Choice<T> {
  const groups = grouped(candidates);
  const models = wanted === undefined ? groups : groups.filter((one) => fits(one, wanted));
  // An exact match wins, although other names contain it, too.
  const exact = wanted === undefined ? [] : models.filter((one) => isNamed(one, wanted));
  const [only, ...more] = exact.length > 0 ? exact : models;
  if (only === undefined) {
    const there = groups.length === 0 ? '' : `: it has ${listed(groups)}`;
    throw new ModelError(
      'model_not_found',
      wanted === undefined
        ? `there is no GGUF model in ${where}`
        : `no model in ${where} is named "${wanted.slice(0, 100)}"${there}`,
      {
        remedy:
          groups.length === 0
            ? 'models of other formats, such as safetensors, have to be converted to GGUF first'
            : 'name a file of it: --file NAME',
      },
    );
  }
  if (more.length > 0) {
    throw new ModelError('model_ambiguous', `${where} has ${models.length} models`, {
      cause: listed(models),
      remedy: `choose one by its name, for example --file ${stemOf(only[0]?.name ?? '')}`,
    });
  }
  return whole(only, where);
}

function fits<T extends Candidate>(choice: Choice<T>, wanted: string): boolean {
  return choice.some(({ name }) => name?.toLowerCase().includes(wanted.toLowerCase()) === true);
}

function isNamed<T extends Candidate>([first]: Choice<T>, wanted: string): boolean {
  const name = first?.name ?? '';
  const names = [name, lastOf(name), stemOf(name)].map((one) => one.toLowerCase());
  return names.includes(wanted.toLowerCase());
}

function grouped<T extends Candidate>(candidates: readonly T[]): Choice<T>[] {
  const groups = new Map<string, T[]>();
  // In a registry, files without names are the parts of one model.
  for (const one of candidates) {
    if (one.name !== null && PROJECTOR.test(one.name)) continue;
    const [, stem, , count] = PART.exec(one.name ?? '') ?? [];
    // Two files of one name are two models.
    const own = `${one.name} ${groups.size}`;
    const key = one.name === null ? '' : stem === undefined ? own : `${stem}-of-${count}`;
    groups.set(key, [...(groups.get(key) ?? []), one]);
  }
  return [...groups.values()].map((group) => group.toSorted((a, b) => (a.name ?? '').localeCompare(b.name ?? '')));
}

/** @throws ModelError `model_invalid` if a part is missing */
function whole<T extends Candidate>(choice: Choice<T>, where: string): Choice<T> {
  const [, stem = '', , count] = PART.exec(choice[0]?.name ?? '') ?? [];
  if (count === undefined) return choice;
  const numbers = choice.map(({ name }) => Number(PART.exec(name ?? '')?.[2]));
  const missing = Array.from({ length: Math.min(Number(count), PARTS_MAX) }, (_, i) => i + 1).find(
    (number, i) => numbers[i] !== number,
  );
  if (missing === undefined && numbers.length === Number(count)) return choice;
  const which =
    missing === undefined
      ? 'its parts are not numbered as they should be'
      : `part ${missing} of ${Number(count)} is missing`;
  throw new ModelError('model_invalid', `the model ${stem} in ${where} is not complete`, {
    cause: which,
    remedy: 'copy or download all of its parts',
  });
}

function listed<T extends Candidate>(groups: readonly Choice<T>[]): string {
  const shown = groups.slice(0, LISTED_MAX).map((choice) => {
    const size = choice.reduce((sum, one) => sum + one.bytes, 0);
    const parts = choice.length === 1 ? '' : ` in ${choice.length} parts`;
    return `${choice[0]?.name ?? 'a file without a name'} (${bytes(size)}${parts})`;
  });
  const more = groups.length - shown.length;
  return `${shown.join(', ')}${more > 0 ? ` and ${more} more` : ''}`;
}
