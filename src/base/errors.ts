/**
 * Operating errors: a request failed, and the caller can act on it.
 * Each folder has one class with a closed set of codes, e.g. `class VmmError extends CodedError<VmmErrorCode> {}`.
 *
 * `message` names the thing and the fault; `cause` says why; `remedy` says, in one imperative sentence, what a person
 * can do. Programmer errors use `assert`; hostile bytes are results.
 */
export class CodedError<Code extends string = string> extends Error {
  readonly code: Code;
  readonly remedy: string | undefined;

  constructor(code: Code, message: string, options: { cause?: unknown; remedy?: string | undefined } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = new.target.name;
    this.code = code;
    this.remedy = options.remedy;
  }
}

/** The chain of messages of an error and its causes, outermost first, joined with ": ". */
export function describeError(error: unknown): string {
  const parts: string[] = [];
  let current: unknown = error;
  while (current !== undefined && parts.length < MAX_CAUSES) {
    parts.push(current instanceof Error ? current.message : String(current));
    current = current instanceof Error ? current.cause : undefined;
  }
  return parts.join(': ');
}

const MAX_CAUSES = 8;

/** The remedy of an error, or of its nearest cause with one. */
export function remedyOf(error: unknown): string | undefined {
  for (let current = error; current instanceof Error; current = current.cause) {
    if (current instanceof CodedError && current.remedy !== undefined) return current.remedy;
  }
  return undefined;
}

/** Whether a full file system of this machine is among the causes. */
export function isFullDisk(error: unknown): boolean {
  for (let current = error; current instanceof Error; current = current.cause) {
    if (FULL_DISK.has(errorCode(current) ?? '')) return true;
  }
  return false;
}

/** Settles as `work` does; undefined if what it needs does not exist. @param missing code of that; default: of a file */
export async function ifThere<T>(work: Promise<T>, missing = 'ENOENT'): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (errorCode(error) === missing) return undefined;
    throw error;
  }
}

const FULL_DISK: ReadonlySet<string> = new Set(['ENOSPC', 'EDQUOT', 'disk_full']);

/** The `code` of a Node or coded error (`ENOENT`, `ECONNRESET`, …), or undefined. */
export function errorCode(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}
