/** The role of a control plane that connects callers to the programs in a sandbox. */
import type { Duplex } from 'node:stream';
import type { Guest, GuestReader } from '../../machine/guest/guest.ts';

export interface GuestAccess {
  /**
   * The guest's operations. Resumes a paused sandbox first if it has `autoResume`.
   * @throws SandboxError `not_ready`
   */
  guest(id: string): Promise<Guest>;
  /**
   * As `guest`, to read files. For a pause that another version made, a VM boots a copy of its disk; it ends when it is
   * no longer used, and the pause stays as it is.
   * @param signal no longer waits for it
   * @throws SandboxError `not_ready`
   */
  reader(id: string, signal?: AbortSignal): Promise<GuestReader>;
  /**
   * A connection to the agent's operations port, for a caller that speaks the guest protocol itself: the
   * guest's `OK <n>` comes first, and a request may be written at once. Half-closes are forwarded both
   * ways. Counts as traffic. Resumes as `guest` does; where only `reader` works, operations that read files do.
   * @throws SandboxError `not_ready`
   */
  openOperation(id: string, signal?: AbortSignal): Promise<Duplex>;
  /**
   * A TCP connection to a port of the guest, through its network card. Half-closes are forwarded both ways;
   * the connection ends with the card. Resumes as `guest` does.
   * @throws SandboxError `not_ready`, `network_unavailable`: no network card; `port_unreachable`
   */
  openPort(id: string, port: number, signal?: AbortSignal): Promise<Duplex>;
}
