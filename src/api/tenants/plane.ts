/**
 * A tenant's view of the control plane, which shows and changes only the tenant's sandboxes and snapshots.
 *
 *     server ──► tenantPlane ──► ControlPlane
 *                  create: notes the owner among the annotations, which forks, pauses and snapshots keep
 *                  others: `not_found` for a sandbox of another owner, as for one that does not exist
 *
 * A refusal must not reveal whether a sandbox exists, so it is always the same error, never "forbidden". The owner of a
 * sandbox never changes, so a check before a call holds during the call.
 */
import { errorCode } from '../../base/errors.ts';
import { MIB } from '../../base/units.ts';
import type {
  ControlPlane,
  CreateRequest,
  GuestAccess,
  Pools,
  Sandboxes,
  SandboxInfo,
  SnapshotInfo,
  Snapshots,
  StoredSecretInfo,
  StoredSecrets,
  VolumeInfo,
  Volumes,
  Watch,
} from '../../sandbox/contract/control.ts';
import { SandboxError } from '../../sandbox/contract/errors.ts';
import { DEFAULTS } from '../../sandbox/contract/limits.ts';
import {
  type Asker,
  checkCreate,
  checkFork,
  checkPackageLogin,
  checkSize,
  checkUpdate,
  type PrivateRules,
} from './ceiling.ts';
import { SECRETS_MAX, VOLUMES_MAX } from './limits.ts';
import { nameOnHost, ownerOf, ownName, withOwner } from './owner.ts';
import { type Ceiling, UNSET_CEILING } from './settings.ts';
import type { StorageNeed, StorageQuota } from './storage-quota.ts';

/** Quotas of starts are enforced below, where VMs are started. */
export interface TenantSettings {
  /** Default: unlimited. */
  readonly storage?: StorageQuota | undefined;
  /** What the operator allows the tenant to ask for. Default: what a tenant without settings may. */
  readonly ceilingOf?: ((tenant: string) => Ceiling) | undefined;
  /** Default: all rules count as private, so that none passes unjudged. */
  readonly privateRules?: PrivateRules | undefined;
  /** Where the host logs in for Python packages; `null`: nowhere. Default: nowhere. */
  readonly packageLogin?: (() => Promise<string | null>) | undefined;
}

export function tenantPlane(control: ControlPlane, tenant: string, settings: TenantSettings = {}): ControlPlane {
  const own = new OwnWorld(control, tenant, settings);
  return {
    ...ownSandboxes(control, own),
    ...ownSnapshots(control, own),
    ...ownVolumes(control, own),
    secrets: ownSecrets(control, own),
    ...operatorsPools(),
    ...ownGuests(control, own),
    ...ownWatch(control, own),
  };
}

function ownSandboxes(control: Sandboxes, own: OwnWorld): Sandboxes {
  return {
    async create(request, signal) {
      checkCreate(request, own.asker());
      const { snapshot, requirements = [] } = request;
      if (requirements.length > 0) await own.checkPackageLogin();
      const source = snapshot === undefined ? {} : { snapshot: (await own.snapshot(snapshot)).id };
      const annotations = withOwner(request.annotations, own.tenant);
      await own.willStart(request.diskMib ?? DEFAULTS.diskMib);
      const named = { ...own.onHost(request), ...(await own.mounts(request)), ...own.secrets(request) };
      return shown(await control.create({ ...request, ...named, ...source, annotations }, signal));
    },

    list: (filter) => own.list(filter),
    get: (id) => own.get(id),

    async update(id, change) {
      await own.get(id);
      checkUpdate(change, own.asker());
      const { annotations } = change;
      const kept = annotations && { annotations: withOwner(annotations, own.tenant) };
      return shown(await control.update(id, { ...change, ...own.secrets(change), ...kept }));
    },

    async remove(id) {
      await own.get(id);
      return shown(await control.remove(id));
    },

    async pause(id, to) {
      const info = await own.get(id);
      if (to === 'memory') return shown(await control.pause(id, to));
      return shown(await own.saved(() => control.pause(id, to), { frees: info }));
    },

    async resume(id, options) {
      await own.willStart((await own.get(id)).diskMib);
      return shown(await control.resume(id, options));
    },

    async fork(id, options) {
      const info = await own.get(id);
      checkFork(info, options, own.asker());
      await own.willStart(info.diskMib * (options.count ?? 1));
      const forks = await control.fork(id, { ...options, ...own.onHost(options) });
      return forks.map((one) => (one.ok ? { ok: true, sandbox: shown(one.sandbox) } : one));
    },
  };
}

function ownSnapshots(control: Snapshots, own: OwnWorld): Snapshots {
  return {
    async snapshot(id, options) {
      await own.get(id);
      const { name } = options ?? {};
      if (name === undefined) return await own.saved(() => control.snapshot(id, options));
      if ((await own.snapshots()).some((one) => one.name === name || one.id === name)) {
        throw new SandboxError('name_taken', `there is a snapshot "${name}" already`, {
          remedy: 'choose another name, or remove that snapshot',
        });
      }
      const named = { ...options, name: nameOnHost(own.tenant, name) };
      const made = await own.saved(() => control.snapshot(id, named));
      return { ...made, name: ownName(made) };
    },

    snapshots: () => own.snapshots(),

    async removeSnapshot(idOrName) {
      await control.removeSnapshot((await own.snapshot(idOrName)).id);
    },
  };
}

function ownVolumes(control: Volumes, own: OwnWorld): Volumes {
  return {
    async createVolume({ name, sizeMib = DEFAULTS.diskMib, annotations }) {
      checkSize({ diskMib: sizeMib }, own.asker());
      if ((await own.volumes()).length >= VOLUMES_MAX) {
        throw new SandboxError('forbidden', `there are ${VOLUMES_MAX} volumes, the maximum for this key`, {
          remedy: 'remove one: neurovisor volume rm',
        });
      }
      const asked = { name: nameOnHost(own.tenant, name), sizeMib, annotations: withOwner(annotations, own.tenant) };
      const made = await own.saved(() => control.createVolume(asked), { moreBytes: sizeMib * MIB });
      return { ...made, name };
    },

    async volumes() {
      const prefix = nameOnHost(own.tenant, '');
      return (await own.volumes()).map((info) => ({ ...info, name: info.name.slice(prefix.length) }));
    },

    async removeVolume(name) {
      await control.removeVolume((await own.volume(name)).name);
    },
  };
}

function ownSecrets({ secrets }: StoredSecrets, own: OwnWorld): StoredSecrets['secrets'] {
  const prefix = nameOnHost(own.tenant, '');
  const named = (info: StoredSecretInfo) => ({ ...info, name: info.name.slice(prefix.length) });
  const list = async () => (await secrets.list()).filter(({ name }) => name.startsWith(prefix)).map(named);
  return {
    list,

    async set(secret) {
      const all = await list();
      if (all.length >= SECRETS_MAX && all.every(({ name }) => name !== secret.name)) {
        throw new SandboxError('forbidden', `there are ${SECRETS_MAX} stored secrets, the maximum for this key`, {
          remedy: 'remove one: neurovisor secret rm',
        });
      }
      return named(await secrets.set({ ...secret, name: prefix + own.secretName(secret.name) }));
    },

    async remove(name, force) {
      await secrets.remove(prefix + own.secretName(name), force);
    },
  };
}

/** Pools are the host's. */
function operatorsPools(): Pools {
  const refused = async (): Promise<never> => {
    throw new SandboxError('forbidden', 'pools are the operator’s', {
      remedy: 'ask the operator of this host, who sets them at its socket',
    });
  };
  return { pools: refused, setPool: refused };
}

function ownGuests(control: GuestAccess, own: OwnWorld): GuestAccess {
  return {
    async guest(id) {
      await own.get(id);
      return await control.guest(id);
    },

    async reader(id, signal) {
      await own.willRead(await own.get(id));
      return await control.reader(id, signal);
    },

    async openOperation(id) {
      await own.willRead(await own.get(id));
      return await control.openOperation(id);
    },

    async openPort(id, port, signal) {
      await own.get(id);
      return await control.openPort(id, port, signal);
    },
  };
}

function ownWatch(control: Watch, own: OwnWorld): Watch {
  return {
    /** The tenant's own counts; what waits in the queue may be others'. The model server's address is the operator's. */
    async host() {
      const host = await control.host();
      const sandboxes = await own.list();
      const paused = sandboxes.filter(({ status }) => status === 'paused').length;
      const modelBudgets = host.modelBudgets.filter(({ tenant }) => tenant === own.tenant);
      const ofTenant = { upstream: 'model server', sandboxes: sandboxes.length, paused, queued: 0, starting: 0 };
      return { ...host, ...ofTenant, modelBudgets, longTurns: [] };
    },

    async channelStats(id) {
      await own.get(id);
      return await control.channelStats(id);
    },

    async usage(id) {
      await own.get(id);
      return await control.usage(id);
    },

    async logs(id) {
      await own.get(id);
      return await control.logs(id);
    },

    async *followLogs(id, signal) {
      await own.get(id);
      yield* control.followLogs(id, signal);
    },

    async *events(id, options) {
      await own.get(id);
      yield* control.events(id, options);
    },

    onChange: (listener) =>
      control.onChange((info) => {
        if (own.owns(info)) listener(shown(info));
      }),
  };
}

/** As the operator's settings are now. */
export function askerOf(tenant: string, { ceilingOf, privateRules = (rules) => rules }: TenantSettings): Asker {
  return { tenant, ceiling: ceilingOf?.(tenant) ?? UNSET_CEILING, privateRules };
}

/** What of a host belongs to one tenant. */
class OwnWorld {
  readonly #control: ControlPlane;
  readonly tenant: string;
  readonly #settings: TenantSettings;

  constructor(control: ControlPlane, tenant: string, settings: TenantSettings) {
    this.#control = control;
    this.tenant = tenant;
    this.#settings = settings;
  }

  owns(info: Pick<SandboxInfo, 'annotations'>): boolean {
    return ownerOf(info) === this.tenant;
  }

  async list(filter?: Parameters<Sandboxes['list']>[0]): Promise<readonly SandboxInfo[]> {
    const all = await this.#control.list({ ...filter, ...this.onHost({ name: filter?.name }) });
    return all.filter((info) => this.owns(info)).map(shown);
  }

  onHost({ name }: { readonly name?: string | undefined }): { readonly name?: string } {
    return name === undefined ? {} : { name: nameOnHost(this.tenant, name) };
  }

  /** @throws SandboxError `not_found` for a sandbox of another owner */
  async get(id: string): Promise<SandboxInfo> {
    const info = await this.#find(id);
    if (this.owns(info)) return shown(info);
    throw noSandbox(id);
  }

  async snapshots(): Promise<readonly SnapshotInfo[]> {
    const own = (await this.#control.snapshots()).filter((info) => this.owns(info));
    return own.map((info) => ({ ...info, name: ownName(info) }));
  }

  /** By its id, otherwise by its name. */
  async snapshot(idOrName: string): Promise<SnapshotInfo> {
    const own = await this.snapshots();
    const found = own.find(({ id }) => id === idOrName) ?? own.find(({ name }) => name === idOrName);
    if (found !== undefined) return found;
    throw new SandboxError('not_found', `there is no snapshot ${idOrName}`, { remedy: 'neurovisor snapshot ls' });
  }

  /** With their names on the host. */
  async volumes(): Promise<readonly VolumeInfo[]> {
    return (await this.#control.volumes()).filter((info) => this.owns(info));
  }

  /** By its id, otherwise by its name. @throws SandboxError `not_found` */
  async volume(idOrName: string): Promise<VolumeInfo> {
    const own = await this.volumes();
    const onHost = nameOnHost(this.tenant, idOrName);
    const found = own.find(({ id }) => id === idOrName) ?? own.find(({ name }) => name === onHost);
    if (found !== undefined) return found;
    throw new SandboxError('not_found', `there is no volume ${idOrName}`, { remedy: 'neurovisor volume ls' });
  }

  async mounts({ volumes }: Pick<CreateRequest, 'volumes'>): Promise<Pick<CreateRequest, 'volumes'>> {
    if (volumes === undefined) return {};
    const named = volumes.map(async (mount) => ({ ...mount, name: (await this.volume(mount.name)).name }));
    return { volumes: await Promise.all(named) };
  }

  /** With the names of stored secrets on the host. */
  secrets({ secrets }: Pick<CreateRequest, 'secrets'>): Pick<CreateRequest, 'secrets'> {
    if (secrets === undefined) return {};
    const onHost = (stored: string) => ({ stored: nameOnHost(this.tenant, this.secretName(stored)) });
    return { secrets: secrets.map((one) => ({ ...one, ...(one.stored === undefined ? {} : onHost(one.stored)) })) };
  }

  /** @throws SandboxError `not_found` for another tenant's, as the operator writes it */
  secretName(name: string): string {
    if (!name.includes('/')) return name;
    throw new SandboxError('not_found', `there is no secret ${name}`, { remedy: 'neurovisor secret ls' });
  }

  async saved<T>(save: () => Promise<T>, need: StorageNeed = {}): Promise<T> {
    const { storage } = this.#settings;
    return storage === undefined ? await save() : await storage.save(this.tenant, save, need);
  }

  async willStart(diskMib: number): Promise<void> {
    await this.#settings.storage?.prepare(this.tenant, diskMib * MIB);
  }

  /** A pause of another version needs a copy of its disk. */
  async willRead({ status, foreignPause, diskMib }: SandboxInfo): Promise<void> {
    if (status === 'paused' && foreignPause !== null) await this.willStart(diskMib);
  }

  /** @throws SandboxError `forbidden` */
  async checkPackageLogin(): Promise<void> {
    const host = (await this.#settings.packageLogin?.()) ?? null;
    checkPackageLogin(host, this.asker());
  }

  asker(): Asker {
    return askerOf(this.tenant, this.#settings);
  }

  /** An error of the plane below may have another text, which would reveal the difference. */
  async #find(id: string): Promise<SandboxInfo> {
    try {
      return await this.#control.get(id);
    } catch (error) {
      throw errorCode(error) === 'not_found' ? noSandbox(id) : error;
    }
  }
}

/** A sandbox as its owner named it. */
const shown = (info: SandboxInfo): SandboxInfo => ({
  ...info,
  name: ownName(info),
  volumes: info.volumes.map((mount) => ({ ...mount, name: mount.name.replace(/^.*\//, '') })),
  secrets: info.secrets.map(({ stored, ...rest }) =>
    stored === undefined ? rest : { ...rest, stored: stored.replace(/^.*\//, '') },
  ),
});

function noSandbox(id: string): SandboxError {
  return new SandboxError('not_found', `there is no sandbox ${id}`, { remedy: 'neurovisor ls' });
}
