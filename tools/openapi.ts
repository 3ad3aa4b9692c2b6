/**
 * Writes `spec/openapi.json` and `spec/e2b-openapi.json` from the schemas of the servers; then format them:
 *
 *     node tools/openapi.ts && npm run format
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createControlApp } from '../src/api/e2b/control/app.ts';
import type { Events } from '../src/api/e2b/events/routes.ts';
import { addTemplateRoutes } from '../src/api/e2b/templates/routes.ts';
import type { Templates } from '../src/api/e2b/templates/templates.ts';
import { accessTokens } from '../src/api/e2b/tokens.ts';
import { createApiServer } from '../src/api/rest/server.ts';
import type { Administration } from '../src/api/tenants/administration.ts';
import { operatorOnly } from '../src/api/tenants/callers.ts';
import { systemClock } from '../src/base/clock.ts';
import { silentLog } from '../src/base/log.ts';
import type { HomeContents } from '../src/sandbox/contract/contents.ts';
import type { ControlPlane } from '../src/sandbox/contract/control.ts';

export const OPENAPI_FILE = join(import.meta.dirname, '../spec/openapi.json');
export const E2B_OPENAPI_FILE = join(import.meta.dirname, '../spec/e2b-openapi.json');

export async function openapiDocument(): Promise<unknown> {
  // No route is called, so nothing is asked of it.
  const control = {} as ControlPlane;
  const [administration, contents] = [{} as Administration, {} as HomeContents];
  await using server = await createApiServer({ control, administration, contents, log: silentLog });
  return server.app.swagger();
}

export async function e2bOpenapiDocument(): Promise<unknown> {
  const control = { onChange: () => () => undefined } as unknown as ControlPlane;
  const parts = {
    control,
    clock: systemClock,
    log: silentLog,
    tokens: accessTokens(new Uint8Array(32)),
    callers: operatorOnly(control, null),
    events: {} as Events,
    domain: () => 'localhost',
  };
  const app = await createControlApp(parts, null, true, {
    source: { localName: () => undefined, remove: async () => false },
    add: (routes) => addTemplateRoutes(routes, {} as Templates),
  });
  const document = app.swagger();
  await app.close();
  return document;
}

if (import.meta.main) {
  const write = (file: string, document: unknown): void =>
    writeFileSync(file, `${JSON.stringify(document, null, 2)}\n`);
  write(OPENAPI_FILE, await openapiDocument());
  write(E2B_OPENAPI_FILE, await e2bOpenapiDocument());
}
