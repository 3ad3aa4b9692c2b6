/** The networks of all sandboxes on this host, of every NeuroVisor process, read from the kernel. */
import type { SandboxId } from '../../base/ids.ts';
import { formatAddress } from '../../egress/net/addresses/addresses.ts';
import { cleanHostNetwork, STATE_DIR_DEFAULT } from '../../egress/net/lease/host-network.ts';
import type { GatewayUse, LeaseLimits, NetworkTraffic } from '../../egress/net/lease/lease.ts';
import { LeaseRecords } from '../../egress/net/lease/record.ts';
import { trafficOf } from '../../egress/net/lease/sandbox-lease.ts';
import { Links } from '../../egress/net/link/links.ts';
import { readTraffic } from '../../egress/net/nftables/sandbox-counters.ts';
import { readContents } from '../../egress/net/nftables/table-owners.ts';
import { TableProbe } from '../../egress/net/nftables/table-probe.ts';
import type { EgressPolicyText } from '../../egress/net/policy/egress-rules.ts';
import { readMetadataDrops } from '../../egress/net/xdp/metadata-guard.ts';
import { isRunning } from '../../sys/process-start.ts';

export interface NetworkView {
  readonly sandbox: SandboxId;
  readonly interface: string;
  readonly address: string;
  readonly gateway: string;
  /**
   * `ok`, or the fault. `orphaned`: the process has ended; the next network start removes it. `no link`: the VM has
   * ended and the process has not noticed. `not filtered`: all traffic is blocked.
   */
  readonly state: 'ok' | 'orphaned' | 'no link' | 'not filtered';
  readonly pid: number;
  /** `null` if not recorded. */
  readonly policy: Required<EgressPolicyText> | null;
  /** `null` if not recorded. */
  readonly limits: LeaseLimits | null;
  /** Remaining bytes of `limits.bytesMax`; `null` without such a limit, or if unknown. */
  readonly bytesLeft: number | null;
  readonly traffic: NetworkTraffic | null;
  /** The gateway's counters, up to two seconds old; `null` if not recorded. */
  readonly gatewayUse: GatewayUse | null;
}

/** @throws LinkError */
export async function viewNetworks(): Promise<NetworkView[]> {
  using probe = new TableProbe();
  const objects = [...probe.listCounters(), ...probe.listQuotas()];
  using links = new Links();
  const owned = links.owned();
  const traffic = readTraffic(objects);
  const records = new LeaseRecords(STATE_DIR_DEFAULT);
  const views = readContents(objects).entries.map(({ owner, lease }): NetworkView => {
    const { id, tap, subnet } = lease;
    const link = owned.find((each) => each.owner.sandboxId === id)?.link;
    const programId = link?.xdpProgramId;
    const drops = link === undefined || programId === undefined ? undefined : readMetadataDrops(programId, link.index);
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
        counted === undefined || bytesMax === undefined ? null : Math.max(0, bytesMax - counted.budgetBytesUsed),
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

/** Removes what ended processes left behind. @throws as `openHostNetwork` */
export async function cleanNetworks(): Promise<void> {
  await cleanHostNetwork();
}
