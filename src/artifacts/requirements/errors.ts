import { CodedError } from '../../base/errors.ts';

export type RequirementsErrorCode =
  /** Not a requirement on a package of an index, or too many of them. */
  | 'requirement_invalid'
  /** The metadata in a script, or a project's files, can't be read or used. */
  | 'project_invalid'
  /** The guest's Python does not satisfy what is required. */
  | 'python_unfit';

/** Python packages were asked for in a way that can't be followed. */
export class RequirementsError extends CodedError<RequirementsErrorCode> {}
