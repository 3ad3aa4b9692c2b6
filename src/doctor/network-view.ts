/** What sandboxes have of this host's network, of every process of NeuroVisor: read from the kernel. */
import type { SandboxId } from '../base/ids.ts';
import { formatAddress } from '../net/addresses/addresses.ts';
import { cleanHostNetwork, STATE_DIR_DEFAULT } from '../net/lease/host-network.ts';
import type { GatewayUse, LeaseLimits, NetworkTraffic } from '../net/lease/lease.ts';
import { LeaseRecords } from '../net/lease/record.ts';
import { trafficOf } from '../net/lease/sandbox-lease.ts';
import { Links } from '../net/link/links.ts';
import { readTraffic } from '../net/nftables/sandbox-counters.ts';
import { readContents } from '../net/nftables/table-owners.ts';
import { TableProbe } from '../net/nftables/table-probe.ts';
import type { EgressPolicyText } from '../net/policy/egress-rules.ts';
import { readMetadataDrops } from '../net/xdp/metadata-guard.ts';
import { isRunning } from '../sys/process-start.ts';

export interface NetworkView {
  readonly sandbox: SandboxId;
  readonly interface: string;
  /** Of the guest. */
  readonly address: string;
  readonly gateway: string;
  /**
   * `ok`, or what is wrong: `orphaned`: its process has ended, the next start of a network removes it;
   * `no link`: the VM has ended and its process has not noticed; `not filtered`: nothing may pass.
   */
  readonly state: 'ok' | 'orphaned' | 'no link' | 'not filtered';
  readonly pid: number;
  /** Null: it is not recorded. */
  readonly policy: Required<EgressPolicyText> | null;
  /** How much of it; null: it is not recorded. */
  readonly limits: LeaseLimits | null;
  /** Of `limits.bytesMax`; null: there is no such limit, or it is not known. */
  readonly bytesLeft: number | null;
  readonly traffic: NetworkTraffic | null;
  /** What its gateway let through and refused, two seconds old or so; null: it is not recorded. */
  readonly gatewayUse: GatewayUse | null;
}

/** @throws LinkError */
export async function viewNetworks(stateDir = STATE_DIR_DEFAULT): Promise<NetworkView[]> {
  using probe = new TableProbe();
  const objects = [...probe.listCounters(), ...probe.listQuotas()];
  using links = new Links();
  const owned = links.owned();
  const traffic = readTraffic(objects);
  const records = new LeaseRecords(stateDir);
  const views = readContents(objects).entries.map(({ owner, lease }): NetworkView => {
    const { id, tap, subnet } = lease;
    const link = owned.find((each) => each.owner.sandboxId === id)?.link;
    const programId = link?.xdpProgramId;
    const drops =
      link === undefined || programId === undefined
        ? undefined
        : readMetadataDrops(programId, link.index);
    const counted = traffic.get(id);
    const record = records.read(id);
    const { bytesMax } = record?.limits ?? {};
    return {
      sandbox: id,
      interface: tap,
      address: formatAddress({ family: 4, value: subnet.base + 2n }),
      gateway: formatAddress({ family: 4, value: subnet.base + 1n }),
      state: isRunning(owner) ? (link !== undefined ? 'ok' : 'no link') : 'orphaned',
      pid: owner.pid,
      policy: record?.policy ?? null,
      limits: record?.limits ?? null,
      bytesLeft:
        counted === undefined || bytesMax === undefined
          ? null
          : Math.max(0, bytesMax - counted.budgetBytesUsed),
      traffic: counted === undefined ? null : trafficOf(counted, drops),
      gatewayUse: record?.use ?? null,
    };
  });
  const known = new Set(views.map(({ sandbox }) => sandbox));
  const unfiltered = owned.filter(({ owner }) => !known.has(owner.sandboxId));
  return [
    ...views,
    ...unfiltered.map(({ link, owner }): NetworkView => {
      const [address] = links.addresses(link.index);
      return {
        sandbox: owner.sandboxId,
        interface: link.name,
        address: '',
        gateway: address?.address ?? '',
        state: isRunning(owner) ? 'not filtered' : 'orphaned',
        pid: owner.pid,
        policy: null,
        limits: null,
        bytesLeft: null,
        traffic: null,
        gatewayUse: null,
      };
    }),
  ];
}

/** Takes away what ended processes left. @throws as `openHostNetwork` */
export async function cleanNetworks(): Promise<void> {
  await cleanHostNetwork();
}
