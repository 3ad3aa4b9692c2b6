/**
 * Answers for E2B features that NeuroVisor lacks, which make a client throw the error of that feature
 * (`SecretError`). Not in the OpenAPI document.
 */
import type { App } from '../../rest/route.ts';
import { E2bError } from '../errors.ts';

const METHODS = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'] as const;

export function addUnsupportedRoutes(app: App): void {
  const refuse = (paths: readonly string[], status: number, why: string, remedy: string): void => {
    for (const url of paths) {
      app.route({
        method: [...METHODS],
        url,
        schema: { hide: true },
        handler: () => {
          throw new E2bError(status, why, { remedy });
        },
      });
    }
  };
  refuse(
    ['/secrets', '/secrets/*'],
    404,
    'secrets of a project are not supported',
    "give a sandbox its secrets by NeuroVisor's own interfaces (docs/secrets.md)",
  );
}
