/** Request errors that Fastify itself detects, for both interfaces. */
import type { FastifyError } from 'fastify';
import { hasZodFastifySchemaValidationErrors } from 'fastify-type-provider-zod';
import type { CONTENT } from '../../sandbox/contract/schema/values.ts';
import { API_LIMITS } from './limits.ts';

export interface RequestFault {
  /** 400 to 499. */
  readonly status: number;
  readonly message: string;
  /** The shape is valid, and what is asked is not: no JSON Schema says so. */
  readonly isContent: boolean;
}

/**
 * `null` if the error is of another kind.
 * @param names whether names of wrong fields begin with the part of the request, such as `body`
 */
export function requestFault(error: FastifyError, names: 'with part' | 'plain'): RequestFault | null {
  if (hasZodFastifySchemaValidationErrors(error)) {
    const part = error.validationContext ?? 'request';
    const { problemsMax, messageCharactersMax } = API_LIMITS;
    const problems = error.validation.slice(0, problemsMax).map(({ instancePath, message }) => {
      const path = instancePath.replace(/\/$/, '').replaceAll('/', '.');
      return `${names === 'plain' ? path.slice(1) : `${part}${path}`}: ${message}`;
    });
    const isContent = error.validation.every(({ params }) => isOfContent(params));
    if (error.validation.length > problemsMax) problems.push(`and ${error.validation.length - problemsMax} more`);
    return { status: 400, message: problems.join('; ').slice(0, messageCharactersMax), isContent };
  }
  const { statusCode = 500, message } = error;
  return statusCode >= 400 && statusCode < 500 ? { status: statusCode, message, isContent: false } : null;
}

interface IssueParams {
  /** A check of the contract has `params: CONTENT`. */
  readonly params?: Partial<typeof CONTENT>;
  /** What is wrong with the key of a record. */
  readonly issues?: readonly IssueParams[];
}

const isOfContent = ({ params, issues = [] }: IssueParams): boolean =>
  params?.isContent === true || (issues.length > 0 && issues.every(isOfContent));
