import type { Readable } from 'node:stream';
import type { VmSpec } from '../../../src/machine/vmm/driver.ts';
import type { FakeChannel } from './channel.ts';

/** The machine, as a fake guest sees it. */
export interface FakeGuestIo extends Pick<FakeChannel, 'connectToHost' | 'onConnect'> {
  print(text: string): void;
  /** Console input; ends with the VM. Empty unless the console is interactive. */
  readonly typed: Readable;
  shutDown(): void;
  crash(): void;
  /** Aborted when the VM is gone. */
  readonly gone: AbortSignal;
}

export type FakeGuest = (io: FakeGuestIo, spec: VmSpec) => void | Promise<void>;
