import { CodedError } from '../../base/errors.ts';

export type RequirementsErrorCode =
  /** Not a requirement on a package of an index, or too many of them. */
  | 'requirement_invalid'
  /** The metadata in a script, or a project's files, can't be read or used. */
  | 'project_invalid'
  | 'python_unfit';

/** A request for Python packages can't be satisfied as written. */
export class RequirementsError extends CodedError<RequirementsErrorCode> {}
