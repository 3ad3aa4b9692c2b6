/** The option of `run` or `create` that a failed program lacked, by the last of its output. Pure. */
import type { SandboxInfo } from '../../sandbox/contract/control.ts';

/** What decides which option would help. */
export interface FailedIn {
  readonly image: object | null;
  readonly network: Pick<NonNullable<SandboxInfo['network']>, 'mode'> | null;
  /** `add` for the same command again, `create the sandbox with` for the next sandbox. */
  readonly how: 'add' | 'create the sandbox with';
  /** Path of the requirements file beside the script, not in use yet. */
  readonly requirements?: string | null;
}

const NO_MODULE = /^ModuleNotFoundError: No module named '([A-Za-z_]\w{0,99})/gm;
const NO_NAME =
  /Temporary failure (?:in name resolution|resolving)|Name or service not known|Could not resolve host|getaddrinfo (?:ENOTFOUND|EAI_AGAIN)/;
const NO_MEMORY = /^(?:MemoryError|numpy\.(?:_?core\.)?_exceptions\._?ArrayMemoryError)\b/m;
const NO_PROGRAM =
  /^(?:[^\n]{0,200}: )?(?:([\w.+-]{1,40}): (?:command )?not found|FileNotFoundError: \[Errno 2\] No such file or directory: '([\w.+-]{1,40})')$/gm;

/** What `environments/base` adds to the built-in system. */
export const BASE_PROGRAMS: ReadonlySet<string> = new Set(
  'cc curl g++ gcc git less make node npm npx rg sudo tmux unzip'.split(' '),
);

/** Modules whose package has another name. */
const PACKAGES: ReadonlyMap<string, string> = new Map([
  ['PIL', 'pillow'],
  ['bs4', 'beautifulsoup4'],
  ['cv2', 'opencv-python-headless'],
  ['dateutil', 'python-dateutil'],
  ['dotenv', 'python-dotenv'],
  ['sklearn', 'scikit-learn'],
  ['yaml', 'pyyaml'],
]);

/** The module that Python did not find; undefined: another failure. @param stderr untrusted */
export const missingModule = (stderr: string): string | undefined => [...stderr.matchAll(NO_MODULE)].at(-1)?.[1];

/**
 * @param stderr the end of a failed program's output: untrusted
 * @returns one line; null: no option is known to help
 */
export function failureHint(stderr: string, where: FailedIn): string | null {
  const module = missingModule(stderr);
  if (module !== undefined) {
    const package_ = PACKAGES.get(module) ?? module;
    const option =
      where.requirements == null ? `--with ${package_}` : `--requirements ${where.requirements}, or --with ${package_}`;
    return `the sandbox has no Python module ${module}; ${where.how}: ${option}`;
  }
  // The name is not repeated: a script could ask for any host.
  if (NO_NAME.test(stderr) && where.network?.mode !== 'open') {
    const lack = where.network === null ? 'the sandbox has no network' : 'the network has only what --allow-out lists';
    return `${lack}; ${where.how}: --allow-out HOST`;
  }
  if (NO_MEMORY.test(stderr)) return `the program needs more memory; ${where.how}: a larger --memory`;
  const last = [...stderr.matchAll(NO_PROGRAM)].at(-1);
  return last === undefined ? null : programHint(last[1] ?? last[2] ?? '', where);
}

/** @param message of an error about a program that did not start. @returns as `failureHint` */
export function startHint(message: string, where: Pick<FailedIn, 'image' | 'how'>): string | null {
  return programHint(/program ['"]([\w.+-]{1,40})['"]/.exec(message)?.[1] ?? '', where);
}

/** @param name of a program that the sandbox lacks: untrusted */
function programHint(name: string, { image, how }: Pick<FailedIn, 'image' | 'how'>): string | null {
  if (image !== null || !BASE_PROGRAMS.has(name)) return null;
  return `the built-in system has no ${name}; ${how}: --template base`;
}
