/** A whole vsock device in memory: guest rings, muxer, host programs; time is a number. */

import { GuestPeer } from '../../prove/vmm/guest-peer.ts';
import {
  GUEST_BASE,
  GuestRings,
  type GuestRingsOptions,
  guestMemoryBytes,
  USER_BASE,
} from '../../prove/vmm/guest-rings.ts';
import { MIB } from '../../src/base/units.ts';
import { MappedMemory, makeRegion, RemoteMemory } from '../../src/machine/vsock/guest-memory.ts';
import { Muxer, type MuxerOptions } from '../../src/machine/vsock/muxer.ts';
import type { MemoryRegion } from '../../src/machine/vsock/ring-memory.ts';
import { Scratch } from '../../src/machine/vsock/scratch.ts';
import { RX, TX } from '../../src/machine/vsock/vhost-user.ts';
import { Virtqueue } from '../../src/machine/vsock/virtqueue.ts';
import { allocateNative } from '../../src/sys/memory.ts';
import { openProcessMemory } from '../../src/sys/process-memory.ts';
import { MemoryHost } from './memory-sockets.ts';

export interface WorldOptions extends Partial<GuestRingsOptions> {
  readonly guestBufAlloc?: number;
  readonly socketBytes?: number;
  readonly isRacy?: boolean;
  readonly muxer?: Partial<Pick<MuxerOptions, 'limits' | 'guestPorts' | 'clientPortSeed'>>;
  /** The device copies, as from another process. Default: it maps. */
  readonly isRemote?: boolean;
  /** Guest memory is shared as two regions that meet here, a fraction of the whole. */
  readonly splitAt?: number | undefined;
}

export class VsockWorld {
  readonly rings: GuestRings;
  readonly guest: GuestPeer;
  readonly host: MemoryHost;
  readonly muxer: Muxer;
  readonly rx = new Virtqueue('device-writes');
  readonly tx = new Virtqueue('device-reads');
  nowMs = 1000;

  constructor(options: WorldOptions = {}) {
    const rings = { guestCid: 42, queueSize: 32, rxCuts: [3776], txCuts: [44], ...options };
    const { buffer, address } = allocateNative(Math.ceil(guestMemoryBytes(rings) / 4096) * 4096);
    const userBase = options.isRemote === true ? address : USER_BASE;
    this.rings = new GuestRings(buffer, { ...rings, userBase });
    this.guest = new GuestPeer(this.rings, options.guestBufAlloc ?? 256 * 1024);
    this.host = new MemoryHost(options.socketBytes ?? 64 * 1024, options.isRacy);
    this.muxer = new Muxer(
      { guestCid: rings.guestCid, limits: {}, connect: this.host.connect, ...options.muxer },
      this.nowMs,
    );
    this.host.muxer = this.muxer;
    const parts = regions(buffer, userBase, options.splitAt);
    const memory = options.isRemote === true ? remoteOwn(parts) : new MappedMemory(parts);
    for (const [queue, ring] of [
      [this.rx, this.rings.rx],
      [this.tx, this.rings.tx],
    ] as const) {
      const problem = queue.start(memory, ring.addresses, 0, false);
      if (problem !== undefined) throw new Error(problem);
    }
  }

  /** One turn of the device. @returns whether it reports more work */
  turn(): boolean {
    this.muxer.handleTime(this.nowMs);
    const drained = this.muxer.drainGuest(this.tx, this.tx.size, this.nowMs);
    const fed = this.muxer.feedGuest(this.rx, this.nowMs);
    this.tx.publish();
    this.rx.publish();
    if (drained === 'broken' || fed === 'broken')
      throw new Error(`ring ${drained === 'broken' ? TX : RX}: ${this.tx.problem ?? this.rx.problem}`);
    return drained === 'more' || fed === 'more';
  }

  /** Turns of device and guest until neither has anything to do. Programs do nothing meanwhile. */
  settle(): void {
    for (let quiet = 0, turns = 0; quiet < 2; turns += 1) {
      if (turns > 10_000) throw new Error('never settles');
      const before = JSON.stringify(this.muxer.stats(this.nowMs));
      const hasMore = this.turn();
      const didSend = this.guest.pump();
      const isQuiet = !hasMore && !didSend && before === JSON.stringify(this.muxer.stats(this.nowMs));
      quiet = isQuiet ? quiet + 1 : 0;
    }
  }
}

const scratch = new Scratch(MIB);
let ownMemory: number | undefined;

/** This process's own memory, accessed like another process's. */
export function remoteOwn(regions: readonly MemoryRegion[]): RemoteMemory {
  ownMemory ??= openProcessMemory(process.pid);
  return new RemoteMemory(ownMemory, regions, scratch);
}

function regions(buffer: ArrayBuffer, userBase: number, splitAt: number | undefined) {
  // The second region is a copy of the handle, not of the bytes: both are views of one buffer.
  const whole = makeRegion(GUEST_BASE, userBase, 0x5000_0000_0000, buffer);
  if (splitAt === undefined) return [whole];
  const cut = Math.floor((buffer.byteLength * splitAt) / 16) * 16;
  const part = (from: number, to: number) => ({
    guestAddress: GUEST_BASE + from,
    userAddress: userBase + from,
    hostAddress: whole.hostAddress + from,
    size: to - from,
    bytes: new Uint8Array(buffer, from, to - from),
    view: new DataView(buffer, from, to - from),
  });
  return [part(0, cut), part(cut, buffer.byteLength)];
}
