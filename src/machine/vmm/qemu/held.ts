/**
 * Our ends of QEMU's sockets. QEMU of a VM that outlives us inherits them too, and never uses them: so it sees no end
 * of them if this process is killed, and the next one takes them from it.
 */
import { readdirSync } from 'node:fs';
import { Socket } from 'node:net';
import { tryOr } from '../../../base/ignore.ts';
import { closeFd, type FileIdentity, fileIdentity } from '../../../sys/fd.ts';
import { openPidFd, takeFd } from '../../../sys/process-memory.ts';
import { startTicksOf } from '../../../sys/process-start.ts';
import { socketPair } from '../../../sys/socket.ts';
import { VmmError } from '../errors.ts';
import { type HeldFile, heldFile, type KeptVm } from '../kept.ts';
import type { LaunchStdio } from '../launch.ts';
import { MEMORY_FD, QMP_FD, SERIAL_FD } from './args.ts';

/** QEMU's own end of each socket, and the descriptor at which it keeps ours. */
const PLACES = { stderr: [2, 6], qmp: [QMP_FD, 7], serial: [SERIAL_FD, 8] } as const;
type Name = keyof typeof PLACES;
const NAMES = ['stderr', 'qmp', 'serial'] as const satisfies readonly Name[];

/** Descriptors that QEMU has more than without it: those that it opens itself follow. */
export const HELD_COUNT = NAMES.length;

/** Our ends, as descriptors that belong to the owner of this object. */
export type HeldSockets = Readonly<Record<Name, Socket>>;

/** Sockets for a QEMU that is started. */
export class HeldEnds {
  readonly #pairs = NAMES.map((name) => ({ name, pair: socketPair() }));
  readonly #files: readonly HeldFile[];

  constructor() {
    this.#files = this.#pairs.map(({ name, pair: [, ours] }) => heldFile(PLACES[name][1], fileIdentity(ours)));
  }

  /** Adds both ends. */
  addTo(stdio: LaunchStdio): void {
    for (const { name, pair } of this.#pairs) {
      for (const [index, fd] of pair.entries()) stdio[PLACES[name][index] ?? -1] = fd;
    }
  }

  /** Call it once QEMU was spawned. */
  sockets(): HeldSockets {
    for (const { pair } of this.#pairs) closeFd(pair[0]);
    return socketsOf(this.#pairs.map(({ pair }) => pair[1]));
  }

  /** After a failed spawn. */
  close(): void {
    for (const { pair } of this.#pairs) for (const fd of pair) closeFd(fd);
  }

  /** @param memoryFd the RAM that QEMU has inherited */
  files(memoryFd: number): readonly HeldFile[] {
    return [...this.#files, heldFile(MEMORY_FD, fileIdentity(memoryFd))];
  }
}

/** What a running QEMU holds for us. The caller owns the descriptors and sockets. */
export interface TakenVm {
  readonly pidFd: number;
  readonly memoryFd: number;
  readonly sockets: HeldSockets;
}

/** @throws VmmError `vm_gone`: it has ended, or does not hold what it should */
export function takeFrom({ vmm, held }: Pick<KeptVm, 'vmm' | 'held'>): TakenVm {
  return withTaken(vmm, (pidFd, taken) => {
    const take = (place: number): number => {
      const fd = takeFd(pidFd, place);
      taken.push(fd);
      const { dev, ino } = heldFile(place, fileIdentity(fd));
      if (held.some((one) => one.fd === place && one.dev === dev && one.ino === ino)) return fd;
      throw new Error(`its descriptor ${place} is another file than at its start`);
    };
    const memoryFd = take(MEMORY_FD);
    const ends = NAMES.map((name) => take(PLACES[name][1]));
    return { pidFd, memoryFd, sockets: socketsOf(ends) };
  });
}

/** @param use gets a pidfd, and the descriptors that a failure closes, which are that one and those it adds */
function withTaken<T>(vmm: KeptVm['vmm'], use: (pidFd: number, taken: number[]) => T): T {
  const taken: number[] = [];
  try {
    const pidFd = openPidFd(vmm.pid);
    taken.push(pidFd);
    // The pidfd comes first: the process that is checked is then its own.
    if (startTicksOf(vmm.pid) !== vmm.startTicks) throw new Error('the VMM has ended');
    return use(pidFd, taken);
  } catch (cause) {
    for (const fd of taken) closeFd(fd);
    throw new VmmError('vm_gone', 'the VM can not be taken over', { cause });
  }
}

/** Its RAM alone. The caller closes it. @throws VmmError `vm_gone` */
export function takeMemory(kept: KeptVm): number {
  const { pidFd, memoryFd, sockets } = takeFrom(kept);
  closeFd(pidFd);
  for (const socket of Object.values(sockets)) socket.destroy();
  return memoryFd;
}

/** Its own descriptor of a file, which the caller closes. @throws VmmError `vm_gone` */
export function takeFile({ vmm }: Pick<KeptVm, 'vmm'>, { dev, ino }: FileIdentity): number {
  return withTaken(vmm, (pidFd) => {
    for (const name of readdirSync(`/proc/${vmm.pid}/fd`)) {
      const fd = tryOr(null, 'it has closed it', () => takeFd(pidFd, Number(name)));
      const found = fd === null ? null : fileIdentity(fd);
      if (fd !== null && found?.dev === dev && found.ino === ino) {
        closeFd(pidFd);
        return fd;
      }
      if (fd !== null) closeFd(fd);
    }
    throw new Error('it has not opened a file that it should have');
  });
}

function socketsOf(ends: readonly number[]): HeldSockets {
  const [stderr, qmp, serial] = ends.map((fd) => new Socket({ fd, readable: true, writable: true }));
  if (stderr === undefined || qmp === undefined || serial === undefined) throw new Error('a socket is missing');
  return { stderr, qmp, serial };
}
