/**
 * The benchmark of the probes in its own network namespace. Prints one line of JSON. Arguments: rounds, object
 * directory.
 *
 * Synchronous: when a write to a TAP returns, the host has processed the frame and answered an echo request. So a
 * call measures the host, not the scheduler.
 */
import { systemClock } from '../../src/base/clock.ts';
import { describeError } from '../../src/base/errors.ts';
import { newSandboxId } from '../../src/base/ids.ts';
import { percentile } from '../../src/base/statistics.ts';
import { Links } from '../../src/egress/net/link/links.ts';
import { openTap } from '../../src/egress/net/link/tap.ts';
import { MetadataGuards } from '../../src/egress/net/xdp/metadata-guard.ts';
import { ObserveError } from '../../src/machine/observe/errors.ts';
import { type LatencyProbes, openLatencyProbes } from '../../src/machine/observe/probes.ts';
import { countRunTime } from '../../src/sys/bpf/object.ts';
import { closeFd, read, write } from '../../src/sys/fd.ts';
import { allocateNative } from '../../src/sys/memory.ts';

/** Times of an echo and its answer, µs: one median and one tail per round. */
interface ProbeSamples {
  readonly p50: number[];
  readonly p99: number[];
}

export interface ProbeReport {
  readonly without: ProbeSamples;
  /** Only our probes on a TAP. */
  readonly xdp: ProbeSamples;
  /**
   * On a TAP that drops packets to metadata services, as in sandboxes: without our probes (`guarded`), and with
   * (`tcx`).
   */
  readonly guarded: ProbeSamples;
  readonly tcx: ProbeSamples;
  /** As a daemon measures: only a sample of a busy guest's packets. */
  readonly sampled: ProbeSamples;
  /** By the kernel's BPF statistics, which slow each run a little, so measured separately. */
  readonly programs: readonly { readonly program: string; readonly runs: number; readonly ns: number }[];
}

export interface ProbesUnavailable {
  readonly unavailable: string;
}

const ECHOES = 5_000;
const MACS = Buffer.from('aafd00000001aafc00000009', 'hex');
const HOST = { address: '10.9.0.1', mac: 'aa:fd:00:00:00:01' } as const;
const GUEST = { address: '10.9.0.2', mac: 'aa:fc:00:00:00:09' } as const;
/** IPv4 from the guest to the host: 36 bytes, 64 hops, ICMP. */
const IP_HEADER = Buffer.from('45000024000000004001' + '66c50a0900020a090001', 'hex');
const VIRTIO_NET_HEADER = Buffer.alloc(10);
const FRAME_BYTES_MAX = 65_536;

const [rounds = '', dir = ''] = process.argv.slice(2);
const owner = { pid: process.pid, startTicks: '1', sandboxId: newSandboxId() };
const links = new Links();
const frame = allocateNative(FRAME_BYTES_MAX);
const answer = allocateNative(FRAME_BYTES_MAX);
const report = { without: empty(), xdp: empty(), guarded: empty(), tcx: empty(), sampled: empty() };
let identifier = 0;

function empty(): ProbeSamples {
  return { p50: [], p99: [] };
}

async function withTap(use: (tap: { fd: number; linkIndex: number }) => Promise<void> | void): Promise<void> {
  const tap = openTap(links, { name: 'bench0', owner, mac: HOST.mac });
  try {
    links.addAddress({ linkIndex: tap.linkIndex, address: HOST.address, prefixLength: 30 });
    links.change(tap.linkIndex, { up: true });
    links.setNeighbor(tap.linkIndex, GUEST.address, GUEST.mac);
    await use(tap);
  } finally {
    closeFd(tap.fd);
  }
}

/** @param into `null`: not counted. @throws Error if an answer is missing */
function echoes(fd: number, into: ProbeSamples | null): void {
  // Each pair of identifier and number is unique, since retransmissions are not measured.
  identifier += 1;
  const icmp = Buffer.alloc(16);
  icmp.writeUInt8(8, 0);
  icmp.writeUInt16BE(identifier, 4);
  const bytes = Buffer.from(frame.buffer);
  const head = Buffer.concat([VIRTIO_NET_HEADER, MACS, Buffer.of(8, 0), IP_HEADER]);
  head.copy(bytes);
  const times: number[] = [];
  for (let sequence = 0; sequence < ECHOES; sequence += 1) {
    icmp.writeUInt16BE(sequence, 6);
    const sum = 0x0800 + identifier + sequence;
    icmp.writeUInt16BE(~((sum & 0xffff) + (sum >>> 16)) & 0xffff, 2);
    icmp.copy(bytes, head.length);
    const begunMs = systemClock.now();
    write(fd, frame.address, head.length + icmp.length);
    const got = read(fd, answer.address, FRAME_BYTES_MAX);
    times.push((systemClock.now() - begunMs) * 1000);
    if (got < head.length) throw new Error(`no answer to echo ${sequence}: ${got}`);
  }
  into?.p50.push(percentile(times, 50) ?? Number.NaN);
  into?.p99.push(percentile(times, 99) ?? Number.NaN);
}

const say = (line: ProbeReport | ProbesUnavailable): boolean => process.stdout.write(`${JSON.stringify(line)}\n`);

async function open(options: { notedMax?: number }): Promise<LatencyProbes> {
  try {
    return await openLatencyProbes({ dir, ...options });
  } catch (error) {
    if (!(error instanceof ObserveError)) throw error;
    say({ unavailable: describeError(error) });
    process.exit(0);
  }
}

using probes = await open({ notedMax: 0 });
using daemon = await open({});
for (let round = 0; round <= Number(rounds); round += 1) {
  // The first round warms up and is not counted.
  const counted = round === 0 ? null : report;
  await withTap(({ fd }) => echoes(fd, counted?.without ?? null));
  await withTap(async ({ fd, linkIndex }) => {
    using _ = await probes.watchTap(linkIndex);
    echoes(fd, counted?.xdp ?? null);
  });
  await withTap(async ({ fd, linkIndex }) => {
    using stack = new DisposableStack();
    stack.adopt(new MetadataGuards(links).guard(linkIndex), (guard) => guard.close());
    echoes(fd, counted?.guarded ?? null);
    stack.use(await probes.watchTap(linkIndex));
    echoes(fd, counted?.tcx ?? null);
  });
  await withTap(async ({ fd, linkIndex }) => {
    using stack = new DisposableStack();
    stack.adopt(new MetadataGuards(links).guard(linkIndex), (guard) => guard.close());
    stack.use(await daemon.watchTap(linkIndex));
    echoes(fd, counted?.sampled ?? null);
  });
}
const statistics = countRunTime();
await withTap(async ({ fd, linkIndex }) => {
  using _ = await probes.watchTap(linkIndex);
  echoes(fd, null);
});
await withTap(async ({ fd, linkIndex }) => {
  using stack = new DisposableStack();
  stack.adopt(new MetadataGuards(links).guard(linkIndex), (guard) => guard.close());
  stack.use(await probes.watchTap(linkIndex));
  echoes(fd, null);
});
closeFd(statistics);
say({ ...report, programs: probes.runTimes() });
