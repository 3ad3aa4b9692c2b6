/** The resources that a supervisor's VM starts with. Each goes onto the cleanup stack as soon as it exists. */
import type { CleanupStack } from '../../base/cleanup.ts';
import { ignore } from '../../base/ignore.ts';
import { MIB } from '../../base/units.ts';
import type { PackageFetch } from '../../egress/packages/gateway.ts';
import type { NicSpec, VmVolume } from '../../machine/vmm/driver.ts';
import { SandboxError } from '../contract/errors.ts';
import type { MappedMemory, PackagePort, SandboxParts, Workspace } from '../contract/parts.ts';
import { mayMapRam, ramMib } from '../memory/size.ts';
import type { Evidence } from './evidence.ts';
import type { NetworkCard } from './network-card.ts';
import type { MadeMemory, Prepared } from './running.ts';
import { allReady, fillOnce } from './saving.ts';
import type { VmSettings } from './vm-settings.ts';

export const ONE_OWNER = 'local';

export interface ResourceParts {
  readonly sandbox: SandboxParts;
  readonly settings: VmSettings;
  readonly card: NetworkCard;
  readonly evidence: Evidence;
  readonly cleanup: CleanupStack;
}

export class VmResources {
  readonly #parts: ResourceParts;

  constructor(parts: ResourceParts) {
    this.#parts = parts;
  }

  /** @param writing the copy of the VM that is being written */
  async make(writing: () => Promise<unknown> | undefined): Promise<Prepared> {
    const { sandbox: parts, settings, card, cleanup } = this.#parts;
    // First, since it takes longest.
    const made = await this.#makeMemory();
    const workspace = await parts.makeWorkspace(settings.spec);
    cleanup.push('workspace', () => workspace.remove());
    const volumes = await this.#openVolumes();
    // A VM that dies during a pause loses nothing: RAM and disk may still be copied.
    cleanup.push('copies', () => Promise.allSettled([writing()]));
    const lease = parts.allocateCid();
    cleanup.push('context id', () => lease.release());
    const { channelPath } = workspace;
    cleanup.push('network', () => card.release());
    const leasing = this.#leaseNetwork();
    const listening = leasing.then(async () => {
      const listener = await parts.listenForGuest(channelPath, settings.identity());
      cleanup.push('guest listener', () => listener.close());
      return listener;
    });
    const attaching = parts
      .attachBridge(settings.spec.id, channelPath, settings.spec.models, settings.spec.modelAccount)
      .then((port) => {
        cleanup.push('bridge port', () => port.close());
        return port;
      });
    const serving = this.#attachPackages(channelPath);
    const copying = this.#makeDisk(workspace);
    // All settle before a failure is thrown: what succeeded must be on the cleanup stack.
    const results = await Promise.allSettled([listening, attaching, serving, copying]);
    for (const result of results) if (result.status === 'rejected') throw result.reason;
    const [nic, listener, port] = await Promise.all([leasing, listening, attaching]);
    const { cid } = lease;
    const hasEnvironment = settings.spec.environment !== undefined;
    const held = { ...made, workspace, hasEnvironment, cid };
    return { ...held, listener, port, packages: await serving, nic, volumes };
  }

  async #attachPackages(channelPath: string): Promise<PackagePort | undefined> {
    const { id, packages } = this.#parts.settings.spec;
    const note = (fetch: PackageFetch): void => this.#parts.evidence.note({ type: 'package', ...fetch });
    const port = await this.#parts.sandbox.attachPackages?.(id, channelPath, packages, note);
    if (port !== undefined) this.#parts.cleanup.push('package port', () => port.close());
    return port;
  }

  async #openVolumes(): Promise<readonly VmVolume[]> {
    const { id, volumes } = this.#parts.settings.spec;
    if (volumes.length === 0) return [];
    const { openVolumes } = this.#parts.sandbox;
    if (openVolumes === undefined) throw new SandboxError('volumes_unavailable', 'this host has no volumes');
    const open = await openVolumes(id, volumes);
    this.#parts.cleanup.push('volumes', () => open.close());
    return open.disks;
  }

  async #leaseNetwork(): Promise<NicSpec | undefined> {
    const { network } = this.#parts.settings.spec;
    return network === null ? undefined : await this.#parts.card.lease(network, this.#parts.settings.spec);
  }

  async #makeDisk({ overlayPath, environmentPath }: Workspace): Promise<void> {
    const { template, disk = template, makeOverlay } = this.#parts.sandbox;
    if (this.#parts.settings.spec.environment !== undefined) {
      const from = disk ?? this.#parts.sandbox;
      if (from.linkEnvironment === undefined) throw new Error('the disk of its image is unknown');
      await from.linkEnvironment(environmentPath);
    }
    if (disk !== undefined) await disk.copyDisk(overlayPath);
    else await makeOverlay(overlayPath, this.#parts.settings.spec.diskMib * MIB);
  }

  /** The RAM of a clone is mapped, or filled while its VMM starts. */
  async #makeMemory(): Promise<MadeMemory> {
    const { template, makeMemory, driver, sharers = ONE_OWNER } = this.#parts.sandbox;
    const memory = makeMemory(ramMib(this.#parts.settings.spec) * MIB);
    let mapped: MappedMemory | undefined;
    let memoryReady: Promise<void> | undefined;
    this.#parts.cleanup.push('RAM', async () => {
      // The copy opens the memory by its descriptor number, which must not be reused before it ends.
      await Promise.allSettled([memoryReady]);
      memory.close();
      await mapped?.close();
    });
    const mayMap = mayMapRam(driver.capabilities, this.#parts.settings.spec);
    if (template?.mapMemory !== undefined && sharers !== null && mayMap) {
      mapped = await template.mapMemory(sharers);
    }
    memoryReady = mapped === undefined ? template?.copyMemory(memory.path) : allReady(mapped.ready, template?.ready);
    memoryReady?.catch((error: unknown) => ignore(error, 'reported by the start of the VM'));
    const fillMemory = mapped && fillOnce(mapped, memory);
    return { memory, mapped, memoryReady, fillMemory };
  }
}
