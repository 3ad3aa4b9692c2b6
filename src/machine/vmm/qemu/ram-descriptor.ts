/**
 * The descriptor number by which QEMU has opened RAM that others map, too. The jail must know it before QEMU has opened
 * anything, to keep its holes out of that file (`LaunchPlan.sparedFd`). QEMU opens its files in the same order at each
 * start, so the number of one version is known in advance, and of others after a first start.
 */
import { readdirSync, statSync } from 'node:fs';
import { tryOr } from '../../../base/ignore.ts';
import type { FileIdentity } from '../../../sys/fd.ts';
import { VmmError } from '../errors.ts';
import { MEMORY_FD } from './args.ts';

/** QEMU 7.2 without extra disks, each of which is opened before. With KVM two descriptors of the kernel come first. */
const FIRST = { tcg: 12, kvm: 14 } as const;

export class RamDescriptor {
  /** Number without extra disks. */
  #first: number;

  constructor(accelerator: 'kvm' | 'tcg') {
    this.#first = FIRST[accelerator];
  }

  /** @param disks number of extra disks */
  expected(disks: number): number {
    return this.#first + disks;
  }

  /**
   * Call before guest code runs. Another start may have changed the expectation since this one's launch. Afterwards
   * `expected` returns the found number.
   * @param spared the number expected at launch
   * @throws VmmError `vmm_command_failed`, `UnexpectedDescriptor` if the jail spares another file
   */
  check(pid: number | null, file: FileIdentity, disks: number, spared: number): void {
    const found = openedAs(pid, file);
    if (found === spared) return;
    this.#first = found - disks;
    throw new UnexpectedDescriptor(
      'vmm_command_failed',
      "QEMU has opened its guest's RAM as another descriptor than before",
      { cause: `it is ${found}, not ${spared}`, remedy: 'Set NEUROVISOR_MEMORY_SHARING=copy.' },
    );
  }
}

/** The next start expects the right one. */
export class UnexpectedDescriptor extends VmmError {}

/** @throws VmmError `vmm_command_failed` */
function openedAs(pid: number | null, { dev, ino }: FileIdentity): number {
  const dir = `/proc/${pid}/fd`;
  try {
    const numbers = readdirSync(dir).map(Number);
    const found = numbers.filter((fd) => fd !== MEMORY_FD && isFile(`${dir}/${fd}`, { dev, ino }));
    const [only] = found;
    if (only === undefined || found.length > 1) throw new Error(`it is open ${found.length} times`);
    return only;
  } catch (cause) {
    throw new VmmError('vmm_command_failed', "QEMU's descriptor of its RAM was not found", { cause });
  }
}

function isFile(path: string, { dev, ino }: FileIdentity): boolean {
  return tryOr(false, 'closed meanwhile', () => {
    const found = statSync(path, { bigint: true });
    return found.dev === dev && found.ino === ino;
  });
}
