/** The network of one sandbox (io): its TAP, resolver, gateway and packet filter rules. */

import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { assert } from '../../../base/assert.ts';
import type { CleanupStack } from '../../../base/cleanup.ts';
import type { Clock } from '../../../base/clock.ts';
import { describeError } from '../../../base/errors.ts';
import { ignore } from '../../../base/ignore.ts';
import type { Log } from '../../../base/log.ts';
import type { GuestNetwork } from '../../../base/request/guest-network.ts';
import { SyscallError } from '../../../sys/libc.ts';
import { originalDestination } from '../../../sys/original-destination.ts';
import { type AddressLease, GATEWAY_MAC } from '../addresses/address-plan.ts';
import { type NameEvent, SandboxNames } from '../dns/answers.ts';
import { DnsServer, type DnsServerOptions } from '../dns/server.ts';
import type { DnsUpstream } from '../dns/upstream.ts';
import { NetError } from '../errors.ts';
import { Gateway, type GatewayEvent } from '../gateway/gateway.ts';
import type { Tap } from '../link/tap.ts';
import type { TapBorrower } from '../link/tap-loan.ts';
import { ListenError } from '../listen-error.ts';
import type { HostTable, InstalledRules } from '../nftables/host-table.ts';
import type { PacketPin } from '../nftables/ruleset.ts';
import { type ChainInput, renewedChains } from '../nftables/sandbox-chains.ts';
import { DROP_COUNTERS, type SandboxTraffic } from '../nftables/sandbox-counters.ts';
import { type BytesByName, DestinationBudgets, widestLimits } from '../policy/destination-budgets.ts';
import type { Endpoint } from '../policy/judge.ts';
import { namePolicy } from '../policy/name-policy.ts';
import { PIN_LIMITS, type Pin, Pins } from '../policy/pins.ts';
import { type EgressPolicy, pinnedPorts } from '../policy/policy.ts';
import { SecretLog } from '../secret/log.ts';
import { type EgressSecrets, withSecretHosts } from '../secret/secret.ts';
import type { MetadataGuard } from '../xdp/metadata-guard.ts';
import type { MetadataDrops } from '../xdp/metadata-program.ts';
import { GuestConnections } from './guest-connection.ts';
import type { GatewayUse, LeaseLimits, NetworkLease, NetworkTraffic } from './lease.ts';
import type { NetworkShares } from './shares.ts';

const DNS_PORT = 53;
const REFUSALS = [...Object.keys(DROP_COUNTERS), 'unasked'] as readonly (keyof typeof DROP_COUNTERS | 'unasked')[];

const NO_DROPS: MetadataDrops = { metadata: 0, unreadable: 0 };

export interface SandboxLeaseOptions {
  readonly addresses: AddressLease;
  readonly tap: Pick<Tap, 'name' | 'fd' | 'close'>;
  readonly lend: NetworkLease['lend'];
  /** Undefined if this host does not let us use BPF. */
  readonly guard: MetadataGuard | undefined;
  readonly mtu: number;
  readonly policy: EgressPolicy;
  readonly limits: LeaseLimits;
  readonly bytesUsed: number;
  readonly destinationBytesUsed?: BytesByName;
  readonly secrets?: EgressSecrets | undefined;
  readonly table: Pick<HostTable, 'add' | 'update' | 'pin' | 'remove' | 'traffic'>;
  readonly record: (policy: EgressPolicy, limits: LeaseLimits, use: GatewayUse) => void;
  readonly upstreams: readonly DnsUpstream[];
  readonly shares: NetworkShares;
  readonly clock: Clock;
  readonly log: Log;
}

interface LeaseSettings {
  /** Excludes the hosts of secrets. */
  readonly requested: EgressPolicy;
  readonly limits: LeaseLimits;
  readonly secrets: EgressSecrets | undefined;
}

export class SandboxLease implements NetworkLease {
  readonly guest: GuestNetwork;
  readonly #options: SandboxLeaseOptions;
  readonly #names: SandboxNames;
  readonly #gateway: Gateway;
  readonly #budgets: DestinationBudgets;
  readonly #connections: GuestConnections;
  readonly #cleanup: CleanupStack;
  #settings: LeaseSettings;
  /** The requested policy with the hosts of secrets. */
  #policy: EgressPolicy;
  #installedLimits: LeaseLimits;
  /** Used part of the budget, as last read. */
  #bytesUsed: number;
  #isExhausted = false;
  #recordedUse = '';
  #ports: { readonly dnsPort: number; readonly gatewayPort: number } | undefined;
  #changes: Promise<unknown> = Promise.resolve();
  #isInstalled = false;
  #loan: Promise<void> = Promise.resolve();
  #isReleased = false;

  /** @param cleanup undoes everything acquired before; `release` runs it */
  constructor(options: SandboxLeaseOptions, cleanup: CleanupStack) {
    const { addresses, limits, bytesUsed, secrets, mtu, clock } = options;
    const policy = withSecretHosts(options.policy, secrets);
    this.#options = options;
    this.#settings = { requested: options.policy, limits, secrets };
    this.#policy = policy;
    this.#installedLimits = limits;
    this.#bytesUsed = bytesUsed;
    this.#cleanup = cleanup;
    this.guest = {
      mac: addresses.guestMac,
      address: addresses.guestAddress,
      prefixLength: addresses.prefix,
      gateway: addresses.hostAddress,
      gatewayMac: GATEWAY_MAC,
      mtu,
    };
    const ports = (name: string): number => pinnedPorts(this.#policy, name).length;
    const pins = new Pins(clock, PIN_LIMITS, ports);
    this.#budgets = new DestinationBudgets(
      limits.destinations ?? [],
      options.destinationBytesUsed ?? {},
      ({ name, bytesMax }) => this.#logExhausted(name, bytesMax),
    );
    const onEvent = (event: NameEvent): void => this.#logName(event);
    this.#names = new SandboxNames({
      policy: namePolicy(policy),
      pins,
      clock,
      onEvent,
      sandboxId: addresses.id,
      questions: options.shares.questions,
    });
    const budgets = this.#budgets;
    const sandbox = {
      id: addresses.id,
      policy: () => namePolicy(this.#policy, budgets),
      pins,
      budgets,
      secrets: () => this.#settings.secrets,
    };
    const secretLog = new SecretLog(options.log);
    this.#connections = new GuestConnections(addresses.guestAddress, clock);
    this.#gateway = new Gateway({
      address: addresses.hostAddress,
      port: 0,
      findSandbox: (address) => (address === addresses.guestAddress ? sandbox : undefined),
      originalDestination: redirectedFrom,
      onEvent: (event) => this.#logConnection(event),
      onSecrets: (use) => secretLog.note(use),
      connections: options.shares.connections,
      decryptions: options.shares.decryptions,
      clock,
      log: options.log,
    });
  }

  /** Lets traffic through as the last step. @throws NetError, ListenError; then `release` undoes the rest */
  async open(): Promise<void> {
    const dnsPort = await this.#listenForNames();
    this.#cleanup.push('gateway', () => this.#gateway.close());
    this.#cleanup.push('connections to the guest', () => this.#connections.close());
    const gatewayPort = await this.#gateway.listen();
    this.#ports = { dnsPort, gatewayPort };
    this.#cleanup.push('packet filter', async () => {
      this.#isInstalled = false;
      await this.#options.table.remove(this.#options.addresses);
    });
    this.#record();
    await this.#options.table.add(this.#chainInput());
    this.#isInstalled = true;
  }

  get interfaceName(): string {
    return this.#options.tap.name;
  }

  get tapFd(): number {
    return this.#options.tap.fd;
  }

  get policy(): EgressPolicy {
    return this.#policy;
  }

  get limits(): LeaseLimits {
    return this.#settings.limits;
  }

  /** The rules to install again after a flush; undefined while none are installed. */
  get installedRules(): InstalledRules | undefined {
    if (!this.#isInstalled) return undefined;
    return this.#wanted();
  }

  get installedAddresses(): AddressLease | undefined {
    return this.#isInstalled ? this.#options.addresses : undefined;
  }

  confirmHandover(): Promise<void> {
    return this.#options.tap.close();
  }

  async lend(borrower: TapBorrower, open: (name: string) => Promise<void>): Promise<void> {
    // The descriptor is closed, and its number may be another sandbox's TAP by now.
    if (this.#isReleased) throw new NetError('closed', 'lend a TAP: its lease was released');
    const loan = this.#options.lend(borrower, open);
    this.#loan = loan.catch((error: unknown) => ignore(error, 'the caller has it'));
    await loan;
  }

  setPolicy(policy: EgressPolicy, limits?: LeaseLimits): Promise<void> {
    return this.#change(() => ({ requested: policy, ...(limits === undefined ? {} : { limits }) }));
  }

  setSecrets(secrets: EgressSecrets | undefined): Promise<void> {
    return this.#change(() => ({ secrets }));
  }

  /** Runs changes one at a time. */
  #change(change: () => Partial<LeaseSettings>): Promise<void> {
    const result = this.#changes.then(() => this.#applySettings({ ...this.#settings, ...change() }));
    this.#changes = result.catch((error: unknown) => ignore(error, 'the caller has it'));
    return result;
  }

  connect(port: number, signal?: AbortSignal): Promise<Duplex> {
    return this.#connections.connect(port, signal);
  }

  async traffic(): Promise<NetworkTraffic> {
    const traffic = await this.#options.table.traffic(this.#options.addresses.id);
    assert(traffic !== undefined, 'the traffic of a lease is read while its rules are installed');
    this.updateBytesUsed(traffic.budgetBytesUsed);
    return trafficOf(traffic, this.#options.guard?.drops());
  }

  gatewayUse(): GatewayUse {
    const { allowed, ended } = this.#gateway.stats();
    const destinations = this.#budgets.use();
    return { allowed, refused: Object.fromEntries(ended), destinations };
  }

  /** Records the gateway's usage for other processes to show, if it has changed. */
  recordUse(): void {
    const isNew = this.#recordedUse !== JSON.stringify(this.gatewayUse());
    if (isNew && this.#isInstalled) this.#record();
  }

  /** Logs an exhausted budget once, and ends the gateway's connections then. @param bytesUsed as just read */
  updateBytesUsed(bytesUsed: number): void {
    this.#bytesUsed = Math.max(this.#bytesUsed, bytesUsed);
    const { bytesMax } = this.#settings.limits;
    if (bytesMax === undefined || bytesUsed < bytesMax || this.#isExhausted) return;
    this.#isExhausted = true;
    const { addresses, log } = this.#options;
    log.info('the byte budget of a sandbox is exhausted', { sandbox: addresses.id, bytesMax });
    this.#gateway.closeSandbox(addresses.id);
  }

  async release(): Promise<void> {
    this.#isReleased = true;
    // A lent TAP can't be removed.
    await this.#loan;
    await this.#cleanup.run();
  }

  /** Port 53, or any if another program listens there on all addresses: the packet filter redirects. */
  async #listenForNames(): Promise<number> {
    const { addresses, upstreams, clock, log } = this.#options;
    const options: Omit<DnsServerOptions, 'port'> = {
      address: addresses.hostAddress,
      upstreams,
      findSandbox: (address) => (address === addresses.guestAddress ? this.#names : undefined),
      onPinned: (_names, pins) => this.#openFor(pins),
      clock,
      log,
    };
    const listen = async (wanted: number): Promise<number> => {
      const server = new DnsServer({ ...options, port: wanted });
      const port = await server.listen();
      this.#cleanup.push('resolver', () => server.close());
      return port;
    };
    try {
      return await listen(DNS_PORT);
    } catch (error) {
      if (!(error instanceof ListenError && error.code === 'address_in_use')) throw error;
      ignore(error, 'another program listens on port 53 of every address');
      return await listen(0);
    }
  }

  /** Sets the name policy first, so that no answer of the old one is pinned after the change. */
  async #applySettings(next: LeaseSettings): Promise<void> {
    assert(this.#ports !== undefined, 'the settings of a lease change while it is open');
    const before = this.#settings;
    const hasNewBudget = next.limits.bytesMax !== before.limits.bytesMax;
    if (hasNewBudget) await this.traffic();
    const destinationsOf = ({ limits }: LeaseSettings) => limits.destinations ?? [];
    const use = (settings: LeaseSettings): void => {
      this.#settings = settings;
      this.#policy = withSecretHosts(settings.requested, settings.secrets);
      this.#names.setPolicy(namePolicy(this.#policy));
    };
    use(next);
    this.#budgets.setLimits(widestLimits(destinationsOf(before), destinationsOf(next)));
    try {
      await this.#options.table.update(this.#options.addresses.id, () => this.#wanted());
      this.#installedLimits = next.limits;
      this.#budgets.setLimits(destinationsOf(next));
      if (hasNewBudget) this.#isExhausted = false;
    } catch (error) {
      use(before);
      this.#budgets.setLimits(destinationsOf(before));
      throw error;
    }
    this.#gateway.judgeSandbox(this.#options.addresses.id);
    // A concurrent release removes the record.
    if (this.#isInstalled) this.#record();
  }

  /** Never throws: no decision depends on the record. */
  #record(): void {
    const { record, addresses, log } = this.#options;
    try {
      const use = this.gatewayUse();
      this.#recordedUse = JSON.stringify(use);
      record(this.#policy, this.#settings.limits, use);
    } catch (error) {
      log.warn('record a lease', { sandbox: addresses.id, error: describeError(error) });
    }
  }

  /** Unpins addresses that the packet filter refuses; the guest then gets no answer with them. */
  async #openFor(pins: readonly Pin[]): Promise<void> {
    const { table, addresses } = this.#options;
    const kept = (): Pin[] => pins.filter(({ name, address }) => this.#names.pins.isPinned(name, address));
    try {
      await table.pin(addresses.id, () => this.#packetPins(kept()));
    } catch (error) {
      this.#names.pins.unpin(pins);
      throw error;
    }
  }

  #wanted(): InstalledRules {
    const renewed = renewedChains(this.#installedLimits, this.#settings.limits);
    return { input: this.#chainInput(), pins: this.#packetPins(this.#names.pins.live()), renewed };
  }

  #chainInput(): ChainInput {
    const { addresses } = this.#options;
    const { secrets } = this.#settings;
    const { destinations: _ofGateway, ...limits } = this.#settings.limits;
    return {
      lease: addresses,
      policy: this.#policy,
      limits,
      bytesUsed: this.#bytesUsed,
      decryptsTls: (secrets?.secrets.length ?? 0) > 0,
      ...this.#ports,
    };
  }

  #packetPins(pins: readonly Pin[]): PacketPin[] {
    return pins.flatMap(({ name, address, seconds }) =>
      pinnedPorts(this.#policy, name).map((port) => ({ ...port, address, seconds })),
    );
  }

  #logName({ name, outcome, why }: NameEvent): void {
    if (outcome === 'answered' || outcome === 'empty') return;
    const sandbox = this.#options.addresses.id;
    this.#options.log.debug('refused a name', { sandbox, name, outcome, why });
  }

  #logExhausted(name: string, bytesMax: number): void {
    const { addresses, log } = this.#options;
    const what = 'the byte budget of a sandbox for a name is exhausted';
    log.info(what, { sandbox: addresses.id, name, bytesMax });
  }

  #logConnection({ outcome, why, name, destination }: GatewayEvent): void {
    if (outcome === 'allowed') return;
    const sandbox = this.#options.addresses.id;
    const to = destination === undefined ? undefined : `${destination.address}:${destination.port}`;
    this.#options.log.debug('refused a connection', { sandbox, to, name, outcome, why });
  }
}

/** @param drops of XDP, which the packet filter never sees */
export function trafficOf({ counts, budgetBytesUsed }: SandboxTraffic, drops = NO_DROPS): NetworkTraffic {
  const { sent, host, received } = counts;
  const filtered = REFUSALS.map((name) => [name, counts[name].packets] as const);
  const early = [
    ['metadata', counts.metadata.packets + drops.metadata],
    ['unreadable', drops.unreadable],
  ] as const;
  const refused = [...filtered, ...early].filter(([, packets]) => packets > 0);
  return {
    packetsOut: sent.packets + host.packets,
    bytesOut: sent.bytes + host.bytes,
    packetsIn: received.packets,
    bytesIn: received.bytes,
    refused: Object.fromEntries(refused),
    bytesUsed: budgetBytesUsed,
  };
}

/** Undefined for a connection that was not redirected, or has already ended. */
function redirectedFrom(socket: Socket): Endpoint | undefined {
  const handle: unknown = Reflect.get(socket, '_handle');
  const fd: unknown = typeof handle === 'object' && handle !== null ? Reflect.get(handle, 'fd') : undefined;
  if (typeof fd !== 'number' || fd < 0) return undefined;
  try {
    const { address, port } = originalDestination(fd);
    const isOwn = address === socket.localAddress && port === socket.localPort;
    return isOwn ? undefined : { address, port };
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    ignore(error, 'the kernel no longer has the connection');
    return undefined;
  }
}
