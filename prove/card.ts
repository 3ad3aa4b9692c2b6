/** A network card at the other end of a TAP, in the namespace of this process (I/O). */
import { Worker } from 'node:worker_threads';
import { modulePath } from '../src/base/module-path.ts';
import { Links } from '../src/egress/net/link/links.ts';
import { createTap } from '../src/sys/tun.ts';
import type { CableEnds } from './cable-worker.ts';

export const CABLE_FD = 3;

export interface CardSpec {
  readonly mac?: string;
  readonly address: string;
  readonly prefixLength: number;
  readonly gateway?: { readonly address: string; readonly mac: string };
  /** Additional addresses at which this namespace answers. */
  readonly also?: readonly string[];
}

/** Makes `eth0`, and `lo` with the other addresses. @throws LinkError, SyscallError */
export function plugCard({ mac, address, prefixLength, gateway, also = [] }: CardSpec): Links {
  const links = new Links();
  const loopback = links.find('lo');
  if (loopback !== undefined) {
    links.change(loopback.index, { up: true });
    for (const each of also) links.addAddress({ linkIndex: loopback.index, address: each, prefixLength: 32 });
  }
  const fd = createTap({ name: 'eth0' });
  const linkIndex = links.find('eth0')?.index ?? 0;
  if (mac !== undefined) links.change(linkIndex, { mac });
  links.addAddress({ linkIndex, address, prefixLength });
  links.change(linkIndex, { up: true });
  if (gateway !== undefined) {
    links.setNeighbor(linkIndex, gateway.address, gateway.mac);
    links.addRoute({ destination: '0.0.0.0/0', gateway: gateway.address, linkIndex });
  }
  startCable({ a: CABLE_FD, b: fd });
  return links;
}

/** Joins two TAPs by copying frames between them in a thread. The caller owns both descriptors and keeps them open until the cable's disposal. */
function startCable(ends: CableEnds): AsyncDisposable {
  const worker = new Worker(modulePath('./cable-worker.ts', import.meta.url), { workerData: ends });
  worker.unref();
  return {
    [Symbol.asyncDispose]: async () => {
      await worker.terminate();
    },
  };
}
