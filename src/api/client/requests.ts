/** The requests of a client as the roles of a control plane make them. */
import { parseSandboxId } from '../../base/ids.ts';
import { SandboxError } from '../../sandbox/contract/errors.ts';
import type { Answer } from './answers.ts';
import type { Transport } from './transport.ts';

export interface Requests {
  readonly transport: Transport;
  get<T>(path: string, answer: Answer<T>, query?: URLSearchParams): Promise<T>;
  post<T>(path: string, body: unknown, answer: Answer<T>, signal?: AbortSignal): Promise<T>;
}

export function requestsOver(transport: Transport): Requests {
  return {
    transport,
    get: (path, answer, query) => transport.call({ method: 'GET', path, query, answer }),
    post: (path, body, answer, signal) => transport.call({ method: 'POST', path, body, answer, signal }),
  };
}

/** Returns the path of a sandbox. @throws SandboxError `not_found` for a malformed id */
export function sandboxPath(id: string): string {
  if (parseSandboxId(id) !== undefined) return `/sandboxes/${id}`;
  throw new SandboxError('not_found', `there is no sandbox ${id.slice(0, 64)}`);
}
