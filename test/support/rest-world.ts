/**
 * A daemon's REST server at a port, on the real control plane with its store, queue, pools and pauses, and on fake VMs:
 * as fast as requests can come. Guests exist only in memory, so no client's program runs here.
 */
import { silentLog } from '../../src/base/log.ts';
import type { ControlPlane } from '../../src/sandbox/contract/control.ts';
import { MemoryFiles, memoryGuest } from './memory-guest.ts';
import { METRICS_KEY, type MetricsWorld, openMetricsWorld } from './metrics-world.ts';

export interface RestWorld extends AsyncDisposable {
  readonly url: string;
  readonly key: string;
  readonly errors: readonly string[];
  readonly world: MetricsWorld;
}

/** Time passes in steps, milliseconds. */
const STEP_MS = 20;

export async function openRestWorld(): Promise<RestWorld> {
  const errors: string[] = [];
  const files = new Map<string, MemoryFiles>();
  const filesOf = (id: string): MemoryFiles => {
    const known = files.get(id) ?? new MemoryFiles();
    files.set(id, known);
    return known;
  };
  const world = await openMetricsWorld({
    control: (control) => withGuests(control, filesOf),
    log: { ...silentLog, error: (message, fields) => errors.push(`${message} ${JSON.stringify(fields)}`) },
  });
  const { clock } = world.host;
  const timer = setInterval(() => clock.advance(STEP_MS), STEP_MS);
  const port = await world.server.listen({ port: 0 });
  return {
    url: `http://127.0.0.1:${port}`,
    key: METRICS_KEY,
    errors,
    world,
    [Symbol.asyncDispose]: async () => {
      clearInterval(timer);
      // Lets the rest of the time pass, so that pending waits end.
      await world.host.passTime(Promise.resolve(world[Symbol.asyncDispose]()));
    },
  };
}

function withGuests(control: ControlPlane, filesOf: (id: string) => MemoryFiles): ControlPlane {
  const guest: ControlPlane['guest'] = async (id) => memoryGuest(await control.guest(id), filesOf(id));
  const reader: ControlPlane['reader'] = async (id) => {
    await control.reader(id);
    return await guest(id);
  };
  return new Proxy(control, {
    get: (target, name) => {
      if (name === 'guest') return guest;
      if (name === 'reader') return reader;
      const value: unknown = Reflect.get(target, name);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}
