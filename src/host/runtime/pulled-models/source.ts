/** The argument of `models pull`: a file, a directory or a model in a registry; and the resulting name. */
import { existsSync } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { OciError } from '../../../artifacts/oci/errors.ts';
import { parseReference, type Reference } from '../../../artifacts/oci/reference.ts';
import { errorCode } from '../../../base/errors.ts';
import { type Candidate, type Choice, chooseModel, stemOf } from './choose.ts';
import { ModelError } from './errors.ts';
import { isModelName } from './store.ts';

export type ModelSource =
  | { readonly kind: 'file' | 'directory'; readonly path: string }
  | { readonly kind: 'registry'; readonly reference: Reference };

const PATH = /^([./~]|file:)|\.gguf$/i;
/** An OCI layout is a directory of the host, too. */
export const isPathOfModel = (text: string): boolean => PATH.test(text) || text.startsWith('oci:');

/**
 * A path begins with `/`, `.` or `~`, or ends in `.gguf`; anything else is in a registry.
 * @throws ModelError `reference_invalid`, `model_not_found`
 */
export async function modelSource(text: string, cwd: string): Promise<ModelSource> {
  if (!PATH.test(text)) return { kind: 'registry', reference: inRegistry(text, cwd) };
  const plain = text.replace(/^file:(\/\/)?/, '').replace(/^~(?=\/|$)/, homedir());
  const path = resolve(cwd, plain);
  try {
    return { kind: (await stat(path)).isDirectory() ? 'directory' : 'file', path };
  } catch (cause) {
    if (errorCode(cause) !== 'ENOENT' && errorCode(cause) !== 'ENOTDIR') throw unreadable(path, cause);
    throw new ModelError('model_not_found', `${path} does not exist`, {
      remedy: 'correct the path; a model in a registry is named without a leading dot or slash',
    });
  }
}

function inRegistry(text: string, cwd: string): Reference {
  let cause: unknown = 'it is neither in a registry nor an OCI layout';
  try {
    const reference = parseReference(text, cwd);
    if (['docker', 'oci'].includes(reference.transport)) return reference;
  } catch (error) {
    if (!(error instanceof OciError)) throw error;
    cause = error.cause;
  }
  const shown = text.slice(0, 200);
  throw new ModelError('reference_invalid', `invalid model "${shown}"`, { cause, remedy: FORMS });
}

const FORMS =
  'Use a path (./model.gguf, ./directory), NAME[:TAG] of a registry such as ai/smollm2, NAME@sha256:DIGEST, or oci:DIRECTORY[:TAG].';

/** Guesses what a failed pull from a registry may have meant. */
export function registryRemedy(text: string, cwd: string): string | undefined {
  if (existsSync(resolve(cwd, text))) return `For the file or directory of this name: neurovisor models pull ./${text}`;
  if (!/^[^/]+$/.test(text)) return undefined;
  return `Check the name, and log in if it is private: docker login. Docker's models are named ai/${text}, Ollama's registry.ollama.ai/library/${text}.`;
}

export interface LocalFile {
  /** Path below the directory. */
  readonly name: string;
  readonly path: string;
  readonly bytes: number;
  readonly modifiedMs: number;
}

/** Levels below a directory; a Hugging Face snapshot has one. */
const DEPTH_MAX = 3;
const FILES_MAX = 10_000;

/**
 * The files of one model: one file, or the parts of a split one.
 * @throws ModelError
 */
export async function localFiles(
  { kind, path }: Extract<ModelSource, { readonly path: string }>,
  wanted: string | undefined,
): Promise<Choice<LocalFile>> {
  if (kind === 'directory') return chooseModel(await ggufIn(path), wanted, path);
  const own = await localFile(dirname(path), basename(path));
  if (stemOf(own.name) === own.name.replace(/\.gguf$/i, '')) return [own];
  // One part of a split model stands for all.
  return chooseModel(await ggufIn(dirname(path), 0), own.name, dirname(path));
}

async function ggufIn(dir: string, depth = DEPTH_MAX): Promise<LocalFile[]> {
  const found: LocalFile[] = [];
  const look = async (at: string, left: number): Promise<void> => {
    for (const entry of await readdir(at, { withFileTypes: true }).catch((cause: unknown) => {
      throw unreadable(at, cause);
    })) {
      const path = join(at, entry.name);
      if (entry.isDirectory()) {
        if (left > 0) await look(path, left - 1);
      } else if (/\.gguf$/i.test(entry.name)) {
        found.push(await localFile(dir, relative(dir, path)));
      }
      if (found.length > FILES_MAX) throw new ModelError('model_ambiguous', `${dir} has more than ${FILES_MAX} models`);
    }
  };
  await look(dir, depth);
  return found;
}

/** Files in a Hugging Face cache are links to their content. */
async function localFile(dir: string, name: string): Promise<LocalFile> {
  const path = join(dir, name);
  try {
    const { size, mtimeMs } = await stat(path);
    return { name, path, bytes: size, modifiedMs: mtimeMs };
  } catch (cause) {
    throw unreadable(path, cause);
  }
}

function unreadable(path: string, cause: unknown): ModelError {
  return new ModelError('model_not_found', `${path} can't be read`, {
    cause,
    remedy: 'correct the path or its permissions',
  });
}

/**
 * `smollm2` for `ai/smollm2`, `smollm2-360M-Q4_K_M` for `ai/smollm2:360M-Q4_K_M`; for a file, its name.
 * @param wanted the chosen one of several files
 */
export function usualName(source: ModelSource, files: Choice<Candidate>, wanted?: string): string {
  if (source.kind !== 'registry') return fitting(stemOf(files[0]?.name ?? ''));
  const { reference } = source;
  const whole = reference.text.replace(/^(docker:\/\/|oci:)/, '').replace(/@sha256:.*$/, '');
  const [, repository = '', tag = 'latest'] = /^(.*?)(?::([\w.-]+))?$/s.exec(whole.replace(/^.*\//s, '')) ?? [];
  const own = tag === 'latest' ? repository : `${repository}-${tag}`;
  return fitting(wanted === undefined ? own : stemOf(files[0]?.name ?? own));
}

/** @throws ModelError `reference_invalid` */
function fitting(text: string): string {
  const name = text
    .replace(/[^\w.-]+/g, '-')
    .replace(/^[^A-Za-z0-9]+|[^\w]+$/g, '')
    .slice(0, 96);
  return checkModelName(name);
}

/** @throws ModelError `reference_invalid` */
export function checkModelName(name: string): string {
  if (isModelName(name)) return name;
  throw new ModelError('reference_invalid', `"${name.slice(0, 100)}" is not a name for a model`, {
    cause:
      'a name has up to 96 letters, digits, dots, dashes and underscores, begins with a letter or digit, and does not end in .gguf',
    remedy: 'give it another one: --name NAME',
  });
}
