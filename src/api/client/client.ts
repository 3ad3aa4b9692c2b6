/**
 * The control plane of a daemon, used from another process. Each method is one REST request (`spec/openapi.json`);
 * operations in a guest are tunnels to its agent.
 *
 *     CLI, library ──► RemoteControlPlane ── HTTP ────────► src/api/rest ──► ControlPlane
 *                        └─ guest(id) ────── upgrade ─────► openOperation ──► agent
 *
 * Errors are those of the daemon's control plane (SandboxError, BusyError), or a ClientError.
 */
import { type Clock, systemClock } from '../../base/clock.ts';
import { ignore } from '../../base/ignore.ts';
import type { Guest } from '../../machine/guest/guest.ts';
import type { HomeContents } from '../../sandbox/contract/contents.ts';
import type { ControlPlane, Pools, Snapshots, StoredSecrets, Volumes, Watch } from '../../sandbox/contract/control.ts';
import type { SandboxLoads } from '../../sandbox/plane/load.ts';
import type { Administration } from '../tenants/administration.ts';
import * as answers from './answers.ts';
import { Changes } from './changes.ts';
import { readEvents } from './events.ts';
import { remoteGuests } from './guests.ts';
import { type Requests, requestsOver, sandboxPath } from './requests.ts';
import { remoteSandboxes } from './sandboxes.ts';
import { untilEnd } from './server-sent.ts';
import { openSession } from './session.ts';
import { type DaemonAddress, Transport } from './transport.ts';

export type { DaemonAddress } from './transport.ts';

const HEALTH_MS_MAX = 2000;
/** Room for a chunk of 16 KiB with every character escaped. */
const LOG_STREAM = { answer: answers.logChunk, what: 'log chunk', lineCharactersMax: 256 * 1024 };

/** @throws ClientError `daemon_unreachable`, `unauthorized`, `address_invalid`, `answer_invalid` */
export async function connectDaemon(address: DaemonAddress, clock: Clock = systemClock): Promise<RemoteControlPlane> {
  const control = remoteControlPlane(address, clock);
  try {
    await control.host();
  } catch (error) {
    await control[Symbol.asyncDispose]();
    throw error;
  }
  return control;
}

export async function isDaemonRunning(socketPath: string): Promise<boolean> {
  const transport = new Transport({ socketPath });
  try {
    const signal = AbortSignal.timeout(HEALTH_MS_MAX);
    await transport.call({ method: 'GET', path: '/health', answer: answers.health, signal });
    return true;
  } catch (error) {
    ignore(error, 'no daemon is running');
    return false;
  } finally {
    transport.close();
  }
}

export interface RemoteControlPlane extends ControlPlane, AsyncDisposable {
  /** What the daemon's home keeps beside sandboxes; only for the operator. */
  contents(): Promise<HomeContents>;
  /**
   * From now on, sandboxes that this client creates end with it: the daemon removes them when the client is disposed or
   * its process ends in any way.
   */
  openSession(): Promise<void>;
  /** Only for the operator: a tenant's key gets SandboxError `forbidden`. */
  administration(): Promise<Administration>;
  /** Current load of each VM. */
  loads(): Promise<SandboxLoads>;
  /** Metrics in the Prometheus text format. */
  metrics(): Promise<string>;
  /** Calls the listener when the stream of changes was interrupted: the daemon ended, or came back. Only with `onChange`. */
  onInterruption(listener: () => void): () => void;
  /** Closes the connections of this client. Sandboxes keep running, except those of its session. */
  [Symbol.asyncDispose](): Promise<void>;
}

/** @throws ClientError `address_invalid` */
export function remoteControlPlane(address: DaemonAddress, clock: Clock): RemoteControlPlane {
  const transport = new Transport(address);
  const requests = requestsOver(transport);
  const open = new Set<Guest>();
  /** Closes the session's connection. */
  const leaving = new AbortController();
  let session: Readonly<Record<string, string>> = {};
  const sandboxes = remoteSandboxes(requests, () => session);
  const { list, get } = sandboxes;
  const changes = new Changes(
    { open: (signal) => transport.stream('/events', signal, false), list: () => list(), get: (id) => get(id) },
    clock,
  );
  return {
    ...sandboxes,
    ...remoteSnapshots(requests),
    ...remoteVolumes(requests),
    ...remoteSecrets(requests),
    ...remotePools(requests),
    ...remoteGuests(requests, { clock, trace: address.trace, open }),
    ...remoteWatch(requests, changes),

    async contents() {
      // Loaded only here: few commands need it.
      const { remoteContents } = await import('./contents.ts');
      return remoteContents(requests);
    },

    async administration() {
      // Loaded only here: few commands need it.
      const { remoteAdministration } = await import('./administration.ts');
      return remoteAdministration(requests);
    },

    async openSession() {
      const id = await openSession((signal) => transport.stream('/session', signal, false), leaving.signal);
      session = { 'neurovisor-session': id };
    },

    async loads() {
      return await requests.get('/loads', answers.sandboxLoads);
    },

    async metrics() {
      return await transport.text('/metrics');
    },

    onInterruption: (listener) => changes.listenInterruptions(listener),

    async [Symbol.asyncDispose]() {
      changes.close();
      leaving.abort();
      for (const guest of open) guest.close();
      transport.close();
    },
  };
}

function remoteSnapshots({ transport, get, post }: Requests): Snapshots {
  return {
    async snapshot(id, options = {}) {
      return await post(`${sandboxPath(id)}/snapshots`, options, answers.snapshotInfo);
    },

    async snapshots() {
      return (await get('/snapshots', answers.snapshotList)).snapshots;
    },

    async removeSnapshot(idOrName) {
      const path = `/snapshots/${encodeURIComponent(idOrName)}`;
      await transport.call({ method: 'DELETE', path, answer: answers.empty });
    },
  };
}

function remoteVolumes({ transport, get, post }: Requests): Volumes {
  return {
    async createVolume({ name, sizeMib }) {
      return await post('/volumes', { name, sizeMib }, answers.volumeInfo);
    },

    async volumes() {
      return (await get('/volumes', answers.volumeList)).volumes;
    },

    async removeVolume(name) {
      const path = `/volumes/${encodeURIComponent(name)}`;
      await transport.call({ method: 'DELETE', path, answer: answers.empty });
    },
  };
}

function remoteSecrets({ transport, get, post }: Requests): StoredSecrets {
  const pathOf = (name: string): string => `/secrets/${encodeURIComponent(name)}`;
  return {
    secrets: {
      async set({ name, value, replace = false }) {
        if (!replace) return await post('/secrets', { name, value }, answers.storedSecret);
        return await transport.call({
          method: 'PUT',
          path: pathOf(name),
          body: { value },
          answer: answers.storedSecret,
        });
      },

      async list() {
        return (await get('/secrets', answers.storedSecretList)).secrets;
      },

      async remove(name, force = false) {
        const query = new URLSearchParams({ force: `${force}` });
        await transport.call({ method: 'DELETE', path: pathOf(name), query, answer: answers.empty });
      },
    },
  };
}

function remotePools({ transport, get }: Requests): Pools {
  return {
    async pools() {
      return (await get('/pools', answers.poolList)).pools;
    },

    async setPool({ min, max }, spec) {
      return await transport.call({
        method: 'PUT',
        path: '/pools',
        body: { min, max, spec },
        answer: answers.poolInfo,
      });
    },
  };
}

function remoteWatch({ transport, get }: Requests, changes: Changes): Watch {
  return {
    async host() {
      return await get('/host', answers.hostInfo);
    },

    async channelStats(id) {
      return await get(`${sandboxPath(id)}/channel`, answers.channelStats);
    },

    async usage(id) {
      return (await get(`${sandboxPath(id)}/usage`, answers.usageList)).usage;
    },

    async logs(id) {
      return await get(`${sandboxPath(id)}/logs`, answers.sandboxLogs);
    },

    async *followLogs(id, signal) {
      const stream = await transport.stream(`${sandboxPath(id)}/logs/stream`, signal, true);
      yield* untilEnd(stream, LOG_STREAM, signal);
    },

    events(id, options = {}) {
      const path = `${sandboxPath(id)}/events`;
      return readEvents((query, signal) => transport.stream(`${path}?${query}`, signal, true), options);
    },

    onChange: (listener) => changes.listen(listener),
  };
}
