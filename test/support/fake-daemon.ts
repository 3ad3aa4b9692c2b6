/** A daemon at the socket of a home of its own, with a fake control plane behind it. */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Certificate } from '../../src/api/rest/listener.ts';
import { createApiServer } from '../../src/api/rest/server.ts';
import { AuditLog } from '../../src/api/tenants/audit.ts';
import { Tenancy } from '../../src/api/tenants/tenancy.ts';
import { systemClock } from '../../src/base/clock.ts';
import { daemonSocket, resolveHome } from '../../src/base/home.ts';
import { silentLog } from '../../src/base/log.ts';
import { MetricRegistry } from '../../src/base/metrics.ts';
import { MIB } from '../../src/base/units.ts';
import type { SandboxTimedEvent } from '../../src/sandbox/plane/event-journal.ts';
import type { SandboxLoad } from '../../src/sandbox/plane/load.ts';
import { FakeControlPlane, type FakeOptions } from './fake-control-plane.ts';
import { homeParts } from './home-parts.ts';

export interface FakeDaemon extends AsyncDisposable {
  readonly control: FakeControlPlane;
  /** More text for its `/metrics`. */
  readonly metrics: MetricRegistry;
  readonly loads: SandboxLoad[];
  /** Recent events of its sandboxes. */
  readonly events: SandboxTimedEvent[];
  /** Environment for a command that should find it. */
  readonly env: Readonly<Record<string, string>>;
  /** Listens also on a port. @param certificate for `localhost`; default: no TLS @returns variables that point to it */
  listenOnPort(certificate?: Certificate): Promise<Readonly<Record<string, string>>>;
  /** Stops the daemon. Idempotent. */
  stop(): Promise<void>;
}

const API_KEY = 'key-for-tests';

export async function startFakeDaemon(options: FakeOptions = {}): Promise<FakeDaemon> {
  const dir = await mkdtemp(join(tmpdir(), 'nv-home-'));
  const home = resolveHome(dir);
  await mkdir(home.runDir, { recursive: true });
  const control = new FakeControlPlane(options);
  const metrics = new MetricRegistry();
  const loads: SandboxLoad[] = [];
  const events: SandboxTimedEvent[] = [];
  const { keys, administration, contents } = homeParts(dir);
  const audit = await AuditLog.open({ homeDir: dir, clock: systemClock, log: silentLog });
  const server = await createApiServer({
    control,
    callers: new Tenancy({ control, keys, apiKey: API_KEY }),
    administration,
    contents,
    audit,
    log: silentLog,
    apiKey: API_KEY,
    metrics,
    loads: () => ({
      atMs: Date.now(),
      sandboxes: loads,
      events,
      sharedMemoryBytes: 300 * MIB,
      memoryPressure: { some: 0.2, full: 0.01 },
    }),
  });
  await server.listen({ socketPath: daemonSocket(home) });
  return {
    control,
    metrics,
    loads,
    events,
    // Only a command that starts its own sandbox would choose an upstream; none of these does.
    env: { NEUROVISOR_HOME: dir, NEUROVISOR_UPSTREAM: '', NEUROVISOR_DAEMON_WAIT: '0' },
    listenOnPort: async (certificate) => {
      const port = await server.listen({ port: 0, certificate });
      const base = certificate === undefined ? 'http://127.0.0.1' : 'https://localhost';
      return { NEUROVISOR_URL: `${base}:${port}`, NEUROVISOR_API_KEY: API_KEY };
    },
    stop: () => server.close(),
    async [Symbol.asyncDispose]() {
      await server.close();
      await audit[Symbol.asyncDispose]();
      await control[Symbol.asyncDispose]();
      await rm(dir, { recursive: true });
    },
  };
}
