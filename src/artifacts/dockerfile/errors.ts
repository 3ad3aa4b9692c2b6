import { CodedError } from '../../base/errors.ts';

export type DockerfileErrorCode =
  /** The Dockerfile violates its grammar, or refers to something undefined. */
  | 'dockerfile_invalid'
  /** Valid for Docker, but not part of the supported subset. */
  | 'instruction_unsupported'
  /** A source of COPY is missing, unreadable or outside the context; or .dockerignore is invalid. */
  | 'context_invalid'
  /** A secret that a step requires was not given, or can't be read. */
  | 'secret_missing'
  | 'step_failed'
  | 'build_failed'
  | 'disk_full'
  | 'cancelled';

export class DockerfileError extends CodedError<DockerfileErrorCode> {
  /** Line of the instruction, from 1; `null` if no instruction is at fault. */
  readonly line: number | null;

  constructor(
    code: DockerfileErrorCode,
    line: number | null,
    message: string,
    options: { cause?: unknown; remedy?: string | undefined } = {},
  ) {
    super(code, line === null ? message : `line ${line}: ${message}`, options);
    this.line = line;
  }
}

export function invalid(line: number | null, message: string, remedy?: string): DockerfileError {
  return new DockerfileError('dockerfile_invalid', line, message, { remedy });
}

export function unsupported(line: number, message: string, remedy?: string): DockerfileError {
  return new DockerfileError('instruction_unsupported', line, message, {
    remedy: remedy ?? 'See docs/dockerfile.md for the supported subset.',
  });
}

/** Shortens a text of the Dockerfile to one line. */
export const shown = (text: string): string => {
  const line = text.replace(/\s+/g, ' ').trim();
  return line.length > SHOWN_CHARACTERS ? `${line.slice(0, SHOWN_CHARACTERS)}…` : line;
};

const SHOWN_CHARACTERS = 80;

export function diskFull(line: number | null, cause: unknown): DockerfileError {
  return new DockerfileError('disk_full', line, 'there is no room for the build', {
    cause,
    remedy:
      'Free disk space: run neurovisor image prune, or delete the cache of builds, cache/dockerfile in the home of NeuroVisor',
  });
}
