/** What the fake host gives to one sandbox: a VM, its directory and RAM, a network. Each step is in the host's script. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { silentLog } from '../../src/base/log.ts';
import type { CardLease, SandboxParts, StartSource } from '../../src/sandbox/contract/parts.ts';
import type { SandboxSpec } from '../../src/sandbox/contract/spec.ts';
import { linkOrCopy } from '../../src/sys/link-or-copy.ts';
import type { FakeHost } from './fake-host.ts';
import { FakeVm, requireState } from './fake-vm.ts';

/** The parts of one sandbox of the fake host. */
export function fakeSandboxParts(
  host: FakeHost,
  spec: SandboxSpec,
  { source, environmentPath }: { readonly source: StartSource | null; readonly environmentPath: string | undefined },
): SandboxParts {
  const { script, clock, dir } = host;
  return {
    driver: {
      name: 'fake',
      description: 'fake',
      accelerator: 'fake',
      capabilities: {} as SandboxParts['driver']['capabilities'],
      start: async (vmSpec, signal) => {
        const memoryPath = join(dir, 'ram', String(vmSpec.memoryFd));
        const vm = new FakeVm(vmSpec, { script, holdings: host, memoryPath });
        try {
          await vm.step('start', signal);
          await vmSpec.memoryReady;
          await requireState(vmSpec.snapshot);
          await vm.mapFrom(vmSpec.snapshot ?? {}, host.sharing === 'differences');
          signal?.throwIfAborted();
        } catch (error) {
          vm.die('killed');
          await vm.exited;
          throw error;
        }
        host.keep(vm);
        return vm;
      },
    },
    kernelPath: 'kernel',
    rootImagePath: 'image',
    clock,
    log: silentLog,
    makeWorkspace: async () => {
      await script.step('workspace');
      const own = await mkdtemp(join(dir, 'run', `${spec.id}-`));
      const overlayPath = join(own, 'overlay');
      const recordVmm = (): Promise<void> => Promise.resolve();
      const remove = (): Promise<void> => rm(own, { recursive: true });
      const environmentPath = join(own, 'environment');
      const paths = { dir: own, channelPath: join(own, 'v'), overlayPath, environmentPath };
      return { ...paths, recordVmm, remove };
    },
    makeOverlay: async (path) => {
      await script.step('overlay');
      await writeFile(path, 'new disk');
    },
    makeMemory: () => host.makeMemory(),
    allocateCid: () => {
      const release = host.lease('context ids');
      return { cid: host.nextNumber(), release };
    },
    listenForGuest: async (_path, identity) => {
      host.identities.push(identity);
      await script.step('listen');
      const close = host.lease('listeners');
      return {
        ready: async (signal) => (await host.vm(spec.id).hello(signal)) as never,
        setIdentity: () => undefined,
        close: async () => close(),
      };
    },
    leaseNetwork: async (_id, network) => {
      await script.step('lease');
      host.leased.push(network);
      return cardLease(host);
    },
    attachBridge: async (id, _path, models, account) => {
      await script.step('bridge');
      const setModels = host.models.attach(id, models, account);
      const close = host.lease('bridge ports');
      const inFlight = (): number => host.models.requests;
      const port = { setModels, setSuspended: () => undefined };
      return { ...port, inFlight, close: async () => close() };
    },
    ...(source === null ? {} : 'snapshot' in source ? { template: source } : { disk: source }),
    ...(environmentPath === undefined ? {} : { linkEnvironment: (to) => linkOrCopy(environmentPath, to) }),
    hostMemory: () => host.memory,
  };
}

/** Each has another MAC and address. */
function cardLease(host: FakeHost): CardLease {
  const release = host.lease('networks');
  const n = host.nextNumber();
  const last = (n & 0xff).toString(16).padStart(2, '0');
  return {
    tapFd: 1000 + n,
    connect: () => Promise.reject(new Error('no guest here')),
    guest: {
      mac: `aa:fc:00:00:00:${last}`,
      address: `10.201.0.${n}`,
      prefixLength: 30,
      gateway: '10.201.0.1',
      gatewayMac: 'aa:fd:00:00:00:01',
      mtu: 1500,
    },
    confirmHandover: () => Promise.resolve(),
    lend: (_vmm, open) => open(`tap${n}`),
    setPolicy: () => host.script.step('network'),
    traffic: async () => ({
      packetsOut: 0,
      bytesOut: 0,
      packetsIn: 0,
      bytesIn: 0,
      refused: {},
      bytesUsed: host.bytesUsed,
    }),
    gatewayUse: () => ({ allowed: 0, refused: {}, destinations: host.destinations }),
    setSecrets: () => Promise.resolve(),
    get trust() {
      return host.trust;
    },
    release: async () => release(),
  };
}
