import type { Readable } from 'node:stream';
import type { VmSpec } from '../driver.ts';
import type { FakeChannel } from './channel.ts';

/** What the machine gives to its guest. */
export interface FakeGuestIo extends Pick<FakeChannel, 'connectToHost' | 'onConnect'> {
  print(text: string): void;
  /** What a person types; ends with the VM. Nothing comes unless the console is interactive. */
  readonly typed: Readable;
  /** The guest powers off or reboots. */
  shutDown(): void;
  /** The VMM dies. */
  crash(): void;
  /** Aborted when the VM is gone. */
  readonly gone: AbortSignal;
}

export type FakeGuest = (io: FakeGuestIo, spec: VmSpec) => void | Promise<void>;
