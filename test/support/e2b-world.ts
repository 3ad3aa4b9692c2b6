/** The server that E2B's clients talk to, on a control plane whose sandboxes are agents of this machine. */
import { createApiServer } from '../../src/api/server.ts';
import { systemClock } from '../../src/base/clock.ts';
import { type Log, silentLog } from '../../src/base/log.ts';
import { createE2bServer } from '../../src/e2b/server.ts';
import { accessTokens } from '../../src/e2b/tokens.ts';
import type { ControlPlane } from '../../src/sandbox/control.ts';
import { type Callers, operatorOnly } from '../../src/tenants/callers.ts';
import { FakeControlPlane, type FakeOptions } from './fake-control-plane.ts';

export interface E2bWorld extends AsyncDisposable {
  readonly control: FakeControlPlane;
  readonly url: string;
  readonly apiKey: string;
  /** Options of a JavaScript client. */
  readonly client: {
    readonly apiKey: string;
    readonly apiUrl: string;
    readonly sandboxUrl: string;
  };
  /** What the server has logged as errors. */
  readonly errors: string[];
}

export async function openE2bWorld(
  options: FakeOptions = {},
  callersOf: (control: ControlPlane, apiKey: string) => Callers = operatorOnly,
): Promise<E2bWorld> {
  const control = new FakeControlPlane(options);
  const errors: string[] = [];
  const log: Log = {
    ...silentLog,
    error: (message, fields) => errors.push(`${message} ${JSON.stringify(fields)}`),
  };
  const apiKey = `e2b_${'0'.repeat(40)}`;
  const callers = callersOf(control, apiKey);
  let port = 0;
  const e2b = await createE2bServer({
    control,
    log,
    clock: systemClock,
    tokens: accessTokens(Buffer.alloc(32, 7)),
    callers,
    domain: () => `localhost:${port}`,
  });
  const api = await createApiServer({ control, log, apiKey, callers, beside: e2b });
  port = (await api.listen({ port: 0 })) ?? 0;
  const url = `http://127.0.0.1:${port}`;
  return {
    control,
    url,
    apiKey,
    client: { apiKey, apiUrl: url, sandboxUrl: url },
    errors,
    async [Symbol.asyncDispose]() {
      await api.close();
      await e2b[Symbol.asyncDispose]();
      await control[Symbol.asyncDispose]();
    },
  };
}
