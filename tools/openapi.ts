/**
 * Writes `spec/openapi.json` from the schemas of the REST server; then format it:
 *
 *     node tools/openapi.ts && npm run format
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createApiServer } from '../src/api/server.ts';
import { silentLog } from '../src/base/log.ts';
import type { ControlPlane } from '../src/sandbox/control.ts';

export const OPENAPI_FILE = join(import.meta.dirname, '../spec/openapi.json');

export async function openapiDocument(): Promise<unknown> {
  // No route is called, so nothing is asked of it.
  const control = {} as ControlPlane;
  await using server = await createApiServer({ control, log: silentLog });
  return server.app.swagger();
}

if (import.meta.main) {
  writeFileSync(OPENAPI_FILE, `${JSON.stringify(await openapiDocument(), null, 2)}\n`);
}
