/**
 * The cost of our rules per packet: the kernel forwards a packet written to a guest's TAP before the write returns. The
 * baseline is a table that only accepts and masquerades, the minimum for a host.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { udpFrame } from '../../prove/frames.ts';
import { newSandboxId } from '../../src/base/ids.ts';
import { openHostNetwork } from '../../src/egress/net/lease/host-network.ts';
import { Links } from '../../src/egress/net/link/links.ts';
import { openTap } from '../../src/egress/net/link/tap.ts';
import { parsePolicy } from '../../src/egress/net/policy/egress-rules.ts';
import { writeBytes } from '../../src/sys/fd.ts';

const run = promisify(execFile);
const UPLINK = 'uplink0';
const FAR = '198.51.100.7';
const PORT = 443;
const PACKETS = 20_000;
/** Headers of IPv4 and UDP. */
const HEADER_BYTES = 28;
const PLAIN_TABLE = `table inet plain {
  chain forward { type filter hook forward priority 0; policy accept; }
  chain srcnat { type nat hook postrouting priority 100; oifname "${UPLINK}" masquerade; }
}`;

/** Microseconds per packet. */
interface ForwardingCost {
  readonly ours: number;
  readonly acceptAll: number;
}

/** A host with an uplink to a network namespace that accepts every packet and answers none. */
export class ForwardingHost {
  readonly #links = new Links();
  readonly #stateDir: string;
  readonly #far: ChildProcess;

  private constructor(stateDir: string, far: ChildProcess) {
    this.#stateDir = stateDir;
    this.#far = far;
  }

  /** Needs a network namespace without links, which disappear with it. */
  static async open(stateDir: string): Promise<ForwardingHost> {
    const far = spawn('unshare', ['--net', 'sh', '-c', 'echo; exec sleep infinity'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const host = new ForwardingHost(stateDir, far);
    try {
      await once(far.stdout, 'data');
      await host.#connect(`${far.pid}`);
      return host;
    } catch (error) {
      await host.close();
      throw error;
    }
  }

  async #connect(farPid: string): Promise<void> {
    await run('ip', ['link', 'add', UPLINK, 'type', 'veth', 'peer', 'name', 'far0', 'netns', farPid]);
    await run('nsenter', ['--net', '--target', farPid, 'ip', 'link', 'set', 'far0', 'up']);
    await run('ip', ['address', 'add', '203.0.113.1/24', 'dev', UPLINK]);
    await run('ip', ['link', 'set', UPLINK, 'up']);
    await run('ip', ['route', 'add', 'default', 'dev', UPLINK]);
    // No host answers ARP.
    this.#links.setNeighbor(this.#links.find(UPLINK)?.index ?? 0, FAR, 'aa:fe:00:00:00:01');
  }

  async measure(packetBytes: number): Promise<ForwardingCost> {
    const ours = await throughOurRules(this.#stateDir, packetBytes);
    await run('nft', ['delete', 'table', 'inet', 'neurovisor']);
    const acceptAll = await throughPlainTable(this.#links, packetBytes);
    return { ours, acceptAll };
  }

  async close(): Promise<void> {
    this.#links.close();
    if (this.#far.exitCode !== null || !this.#far.kill('SIGKILL')) return;
    await once(this.#far, 'exit');
  }
}

async function throughOurRules(stateDir: string, bytes: number): Promise<number> {
  await using network = await openHostNetwork({ stateDir });
  const policy = parsePolicy({ mode: 'allowlist', allow: ['pypi.org', `198.51.100.0/24:${PORT}`] });
  const lease = await network.lease({ sandboxId: newSandboxId(), policy });
  const { mac, address, gatewayMac } = lease.guest;
  const frame = frameOf(bytes, { fromMac: mac, toMac: gatewayMac, from: address });
  return await costOf(lease.tapFd, frame);
}

async function throughPlainTable(links: Links, bytes: number): Promise<number> {
  const owner = { pid: process.pid, startTicks: '', sandboxId: newSandboxId() };
  const mac = 'aa:fd:00:00:00:09';
  const tap = openTap(links, { name: 'bench0', owner, mac });
  try {
    const { linkIndex } = tap;
    links.addAddress({ linkIndex, address: '192.168.99.1', prefixLength: 30 });
    links.change(linkIndex, { up: true });
    await writeFile('/proc/sys/net/ipv4/ip_forward', '1');
    await run('nft', [PLAIN_TABLE]);
    const own = { fromMac: 'aa:fc:00:00:00:09', toMac: mac, from: '192.168.99.2' };
    return await costOf(tap.fd, frameOf(bytes, own));
  } finally {
    await run('nft', ['delete table inet plain']);
    await writeFile('/proc/sys/net/ipv4/ip_forward', '0');
    await tap.close();
  }
}

function frameOf(packetBytes: number, own: { fromMac: string; toMac: string; from: string }): Buffer {
  return udpFrame({ ...own, to: FAR, port: PORT, text: 'x'.repeat(packetBytes - HEADER_BYTES) });
}

async function costOf(tapFd: number, frame: Buffer): Promise<number> {
  // The first packets of a connection pass more rules than the others.
  for (let sent = 0; sent < PACKETS / 10; sent += 1) writeBytes(tapFd, frame);
  const before = await packetsSent();
  const begunMs = performance.now();
  for (let sent = 0; sent < PACKETS; sent += 1) writeBytes(tapFd, frame);
  const us = (performance.now() - begunMs) * 1000;
  const left = (await packetsSent()) - before;
  // The host may send some packets of its own.
  if (left < PACKETS) throw new Error(`${left} of ${PACKETS} packets were forwarded`);
  return us / PACKETS;
}

async function packetsSent(): Promise<number> {
  const { stdout } = await run('ip', ['-s', '-j', 'link', 'show', UPLINK]);
  const [link] = JSON.parse(stdout) as { stats64: { tx: { packets: number } } }[];
  return link?.stats64.tx.packets ?? 0;
}
