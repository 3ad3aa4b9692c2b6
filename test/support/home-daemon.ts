/** A daemon of a home's contents: the REST server and the files, without VMs. */
import { mkdirSync } from 'node:fs';
import { connectDaemon } from '../../src/api/client/client.ts';
import { createApiServer } from '../../src/api/rest/server.ts';
import { AuditLog } from '../../src/api/tenants/audit.ts';
import { KeyStore } from '../../src/api/tenants/keys.ts';
import { Tenancy } from '../../src/api/tenants/tenancy.ts';
import { systemClock } from '../../src/base/clock.ts';
import { daemonSocket, resolveHome } from '../../src/base/home.ts';
import { silentLog } from '../../src/base/log.ts';
import { homeContents } from '../../src/host/contents/contents.ts';
import type { HomeContents } from '../../src/sandbox/contract/contents.ts';
import { FakeControlPlane } from './fake-control-plane.ts';

export const API_KEY = 'the-key-of-this-test';

/** @param stack ends it. @param change replaces parts of its contents */
export async function startHomeDaemon(
  dir: string,
  stack: AsyncDisposableStack,
  change: (own: HomeContents) => HomeContents = (own) => own,
) {
  const home = resolveHome(dir);
  mkdirSync(home.runDir, { recursive: true });
  const control = stack.use(new FakeControlPlane({}));
  const audit = stack.use(await AuditLog.open({ homeDir: dir, clock: systemClock, log: silentLog }));
  const own = homeContents({
    config: { home: dir, imageQuotaBytes: 1e9 },
    log: silentLog,
    signal: new AbortController().signal,
    runtime: () => Promise.reject(new Error('no VM')),
  });
  const keys = new KeyStore(dir, systemClock);
  const callers = new Tenancy({ control, keys, apiKey: API_KEY });
  const parts = { control, log: silentLog, apiKey: API_KEY, callers, audit, contents: change(own) };
  const server = stack.use(await createApiServer(parts));
  await server.listen({ socketPath: daemonSocket(home) });
  const url = `http://127.0.0.1:${await server.listen({ port: 0 })}`;
  const connect = async (apiKey?: string) => {
    const at = apiKey === undefined ? { socketPath: daemonSocket(home) } : { url, apiKey };
    return await stack.use(await connectDaemon(at)).contents();
  };
  return { connect, url, audit, keys, close: () => server.close() };
}
