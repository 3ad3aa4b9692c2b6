/** Proves that the packet measurements of a guest are correct: every frame, every answer, every delay. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { sleep, systemClock } from '../../src/base/clock.ts';
import { readConfig } from '../../src/base/config.ts';
import { describeError, errorCode } from '../../src/base/errors.ts';
import { resolveHome } from '../../src/base/home.ts';
import { ignore } from '../../src/base/ignore.ts';
import { modulePath } from '../../src/base/module-path.ts';
import { Links } from '../../src/egress/net/link/links.ts';
import { bpfDir } from '../../src/host/probes/latency.ts';
import { ObserveError } from '../../src/machine/observe/errors.ts';
import { boundsNs, bucketOf, type Histogram, quantileNs, since } from '../../src/machine/observe/histogram.ts';
import type { Path } from '../../src/machine/observe/latency.ts';
import {
  type LatencyProbes,
  openLatencyProbes,
  readLatencyOf,
  type TapProbe,
} from '../../src/machine/observe/probes.ts';
import { echoFrame } from '../frames.ts';
import { ALLOWED, METADATA_ADDRESSES } from '../map.ts';
import { type Proof, Tries } from '../proof.ts';
import type { LeasedGuest, World } from '../world.ts';
import { Wire } from './wire.ts';

const HOST_MAC = 'aa:fd:00:00:00:01';
const GUEST = { address: '10.203.0.2', mac: 'aa:fc:00:00:00:21' } as const;
const HOST = '10.203.0.1';
const PEER = { address: '10.203.1.2', mac: 'aa:fc:00:00:00:22' } as const;
const PACKETS = 200;
const DELAYED = 9;
const DELAY_MS = 20;
/** Time for the kernel to release the resources of a killed process. */
const GONE_MS = 5_000;
const BPF_FILESYSTEM = '/sys/fs/bpf';

export async function proveXdp(world: World): Promise<Proof> {
  const tries = new Tries(world);
  // With the programs that sandboxes get: a host that was set up elsewhere may have no compiler.
  const dir = bpfDir(resolveHome(readConfig(process.env).home));
  try {
    await measure(tries, world, dir);
  } catch (error) {
    if (!(error instanceof ObserveError)) throw error;
    const { code, remedy = '' } = error;
    const seen = `not available (${code}): ${remedy} ${describeError(error)}`;
    tries.note('probes are loaded', 'they are', seen, false);
  }
  return tries.proof('xdp');
}

async function measure(tries: Tries, world: World, dir: string): Promise<void> {
  // The host forwards while a lease exists.
  const leased = await world.guest({ mode: 'allowlist', allow: [ALLOWED.name] });
  using links = new Links();
  using guest = new Wire(links, { name: 'probe0', address: HOST, mac: HOST_MAC });
  using peer = new Wire(links, { name: 'probe1', address: '10.203.1.1', mac: HOST_MAC });
  links.setNeighbor(guest.linkIndex, GUEST.address, GUEST.mac);
  const before = readLatencyOf(guest.linkIndex) === undefined;
  tries.note('control: no probe at first', 'none', before ? 'none' : 'a probe', before);
  {
    using probes = await openLatencyProbes({ dir });
    using probe = await probes.watchTap(guest.linkIndex);
    await probes.watchUplink(peer.linkIndex);
    tries.note('frames are seen by XDP', 'xdp', probe.ingress, probe.ingress.startsWith('xdp'));
    await counts(tries, probe, guest);
    await forward(tries, probe, { guest, peer, links });
    await roundTrips(tries, probe, { guest, peer });
    await metadata(tries, probes, leased);
  }
  await killed(tries, guest.linkIndex, dir, links);
}

const ends = {
  toHost: { fromMac: GUEST.mac, toMac: HOST_MAC, from: GUEST.address, to: HOST },
  out: { fromMac: GUEST.mac, toMac: HOST_MAC, from: GUEST.address, to: PEER.address },
  back: { fromMac: PEER.mac, toMac: HOST_MAC, from: PEER.address, to: GUEST.address },
} as const;

async function counts(tries: Tries, probe: TapProbe, guest: Wire): Promise<void> {
  for (let sequence = 0; sequence < PACKETS; sequence += 1) {
    guest.send(echoFrame({ ...ends.toHost, kind: 'request', sequence }));
    await guest.receive(1);
  }
  const { framesOut, framesIn, paths } = probe.read();
  const { started, answered } = paths.peer;
  const seen = `${framesOut} out, ${framesIn} in, ${started} awaited, ${answered} answered`;
  const expected = `${PACKETS} out, ${PACKETS} in, ${PACKETS} awaited, ${PACKETS} answered`;
  tries.note(`${PACKETS} echo requests to the host`, expected, seen, seen === expected);
}

interface Wires {
  readonly guest: Wire;
  readonly peer: Wire;
}

/** Packets wait in the host until it knows the peer's MAC address. */
async function forward(tries: Tries, probe: TapProbe, { guest, peer, links }: Wires & { links: Links }) {
  const before = probe.read().paths.forward;
  const begunMs = systemClock.now();
  for (let sequence = 0; sequence < DELAYED; sequence += 1)
    guest.send(echoFrame({ ...ends.out, kind: 'request', sequence: 1000 + sequence }));
  await sleep(DELAY_MS);
  links.setNeighbor(peer.linkIndex, PEER.address, PEER.mac);
  await peer.receive(DELAYED);
  const tookMs = systemClock.now() - begunMs;
  moved(tries, 'forward', since(probe.read().paths.forward, before), tookMs);
}

async function roundTrips(tries: Tries, probe: TapProbe, { guest, peer }: Wires): Promise<void> {
  const before = probe.read().paths;
  const longest: Record<'guest' | 'peer', number> = { guest: 0, peer: 0 };
  for (let number = 0; number < DELAYED; number += 1) {
    const sequence = 2000 + number;
    for (const path of ['peer', 'guest'] as const) {
      const [asks, answers] = path === 'peer' ? [guest, peer] : [peer, guest];
      const [question, answer] = path === 'peer' ? [ends.out, ends.back] : [ends.back, ends.out];
      const begunMs = systemClock.now();
      asks.send(echoFrame({ ...question, kind: 'request', sequence }));
      await answers.receive(1);
      await sleep(DELAY_MS);
      answers.send(echoFrame({ ...answer, kind: 'reply', sequence }));
      await asks.receive(1);
      longest[path] = Math.max(longest[path], systemClock.now() - begunMs);
    }
  }
  const after = probe.read().paths;
  for (const path of ['peer', 'guest'] as const) moved(tries, path, since(after[path], before[path]), longest[path]);
}

/** p50 is in the bucket of the delay, or of a longer one on a busy machine. */
function moved(tries: Tries, path: Path, times: Histogram, tookMs: number): void {
  const p50Ns = quantileNs(times, 0.5) ?? 0;
  const bucket = bucketOf(p50Ns);
  const ok = bucket >= bucketOf(DELAY_MS * 1e6) && bucket <= bucketOf(tookMs * 1e6);
  const { from, to } = boundsNs(bucket);
  const ms = (ns: number): string => (ns / 1e6).toFixed(1);
  const what = `${path}: a delay of ${DELAY_MS} ms (at most ${tookMs.toFixed(1)} ms)`;
  tries.note(what, 'p50 in its bucket', `p50 in ${ms(from)} to ${ms(to)} ms`, ok);
}

/** Packets on a TAP whose XDP program already drops them. */
async function metadata(tries: Tries, probes: LatencyProbes, leased: LeasedGuest): Promise<void> {
  const { guest, lease } = leased;
  using links = new Links();
  const linkIndex = links.find(lease.interfaceName)?.index ?? 0;
  using probe = await probes.watchTap(linkIndex);
  const before = (await lease.traffic()).refused['metadata'] ?? 0;
  for (const to of METADATA_ADDRESSES) await guest.frame({ to, port: 9999, text: 'x' });
  // Answered only after the frames before it were processed.
  await guest.datagram(guest.gateway, 9, 'barrier');
  const dropped = ((await lease.traffic()).refused['metadata'] ?? 0) - before;
  const isSeen = probe.read().framesOut > 0;
  const expected = `${METADATA_ADDRESSES.length} dropped, others seen`;
  const seen = `${dropped} dropped, others ${isSeen ? 'seen' : 'not seen'}`;
  tries.note('packets to metadata services while probes run', expected, seen, seen === expected);
}

/** Nothing is pinned, so all probes end with their process. */
async function killed(tries: Tries, linkIndex: number, dir: string, links: Links): Promise<void> {
  const isThere = (): boolean =>
    readLatencyOf(linkIndex) !== undefined || links.find(linkIndex)?.xdpProgramId !== undefined;
  const observer = modulePath('./xdp-observer.ts', import.meta.url);
  const child = spawn(process.execPath, [observer, String(linkIndex), dir], { stdio: ['pipe', 'pipe', 'inherit'] });
  const ended = once(child, 'close');
  await Promise.race([once(child.stdout, 'data'), ended]);
  const there = isThere();
  tries.note('control: another process measures', 'it does', there ? 'it does' : 'nothing', there);
  child.kill('SIGKILL');
  await ended;
  for (let waitedMs = 0; isThere() && waitedMs < GONE_MS; waitedMs += 10) await sleep(10);
  const left = [...(isThere() ? ['programs'] : []), ...pinned()];
  const seen = left.length === 0 ? 'nothing' : left.join(', ');
  tries.note('remains after kill -9', 'nothing', seen, left.length === 0);
}

function pinned(): string[] {
  try {
    return readdirSync(BPF_FILESYSTEM).filter((name) => name.startsWith('nv_'));
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error;
    ignore(error, 'the host has no BPF file system');
    return [];
  }
}
