/**
 * Measures vsock and TCP between host and one guest, in a network namespace, so that the machine's network is
 * untouched. Prints one line of JSON, `IpcSamples`. Arguments: kernel, accelerator, rounds.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CleanupStack } from '../../src/base/cleanup.ts';
import { newSandboxId } from '../../src/base/ids.ts';
import { Links } from '../../src/egress/net/link/links.ts';
import { openTap } from '../../src/egress/net/link/tap.ts';
import { createVsockHost } from '../../src/machine/vsock/host.ts';
import { GuestTraffic, type TrafficSamples } from './guest-traffic.ts';
import { buildInitrd } from './initrd.ts';
import { bootGuest, dialChannel, GUEST_PORT } from './vsock.ts';

type IpcWay = 'vsock' | 'tcp';
export type IpcSamples = Record<IpcWay, TrafficSamples>;

const GUEST_CID = 77;
/** As in `fixtures/vsock-guest.c`. */
const [HOST, GUEST] = ['10.99.0.1', '10.99.0.2'];

/** As in a sandbox: without vhost, in QEMU's process. */
const DEVICE = ['-netdev', 'tap,id=net,fd=3,vhost=off', '-device', 'virtio-net-pci,netdev=net,romfile='];

const [, , kernelPath = '', accelerator, rounds] = process.argv;
const cleanup = new CleanupStack();

async function boot(): Promise<Record<IpcWay, GuestTraffic>> {
  const dir = await mkdtemp(join(tmpdir(), 'nv-bench-ipc-'));
  cleanup.push('bench directory', () => rm(dir, { recursive: true, force: true }));
  const [channelPath, vhostPath] = [join(dir, 'channel'), join(dir, 'vhost')];
  const host = createVsockHost();
  cleanup.push('vsock host', () => host.close());
  const guestCid = GUEST_CID;
  await host.attach({ id: 'bench', guestCid, vhostSocketPath: vhostPath, channelPath });
  const source = join(import.meta.dirname, 'fixtures', 'vsock-guest.c');
  const initrd = await buildInitrd(source, dir, 'guest');
  const options = { kernelPath, accelerator: accelerator === 'kvm' ? 'kvm' : 'tcg' } as const;
  const more = { args: DEVICE, tapFd: tapOf() };
  await bootGuest(options, { dir, vhostPath, initrd }, cleanup, more);
  return {
    vsock: new GuestTraffic(() => dialChannel(channelPath)),
    tcp: new GuestTraffic(async () => connected(connect(GUEST_PORT, GUEST).setNoDelay(true))),
  };
}

/** A TAP without a packet filter, which would block connections to a guest: the best case for TCP. */
function tapOf(): number {
  using links = new Links();
  const owner = { pid: process.pid, startTicks: '', sandboxId: newSandboxId() };
  const tap = openTap(links, { name: 'bench0', owner });
  cleanup.push('TAP', () => tap.close());
  links.addAddress({ linkIndex: tap.linkIndex, address: HOST, prefixLength: 24 });
  links.change(tap.linkIndex, { up: true });
  return tap.fd;
}

function connected(socket: Socket): Promise<Socket> {
  return new Promise((resolve, reject) => {
    socket.once('error', reject).once('connect', () => {
      socket.off('error', reject);
      resolve(socket);
    });
  });
}

try {
  const ways = await boot();
  for (const way of Object.values(ways)) await way.warmUp();
  // In turn, so that both see the same disturbances.
  for (let round = 0; round < Number(rounds); round += 1) for (const way of Object.values(ways)) await way.round();
  const samples: IpcSamples = { vsock: ways.vsock.samples, tcp: ways.tcp.samples };
  process.stdout.write(`${JSON.stringify(samples)}\n`);
} finally {
  await cleanup.run();
}
process.exit(0);
