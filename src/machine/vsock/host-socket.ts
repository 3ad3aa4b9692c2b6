/** The sockets that the muxer needs; `uds.ts` has the real ones, tests have theirs in memory. */
import type { Segments } from './segments.ts';

/** Returned by `read` if nothing waits now. */
export const READ_WOULD_BLOCK = -1;
/** Returned by `read` if the socket is broken. */
export const READ_BROKEN = -2;
/** Returned by writes if the other end takes nothing more. */
export const WRITE_BROKEN = -1;

/** A connected stream to a host program. No call blocks. `C`: the connection that its events name. */
export interface HostSocket<C> {
  /** Reports the socket's events for `connection` from now on. */
  serve(connection: C): void;
  /** @returns bytes filled (> 0), 0 at the end of input, READ_WOULD_BLOCK or READ_BROKEN */
  read(segments: Segments): number;
  /** @returns bytes taken, fewer than given if it would block, or WRITE_BROKEN */
  write(segments: Segments): number;
  /** `write` for bytes that are held in this process. */
  writeHeld(bytes: Uint8Array): number;
  /** Whether to report (`Muxer.hostHasRoom`) when more can be written. */
  watchRoom(isOn: boolean): void;
  endWrite(): void;
  endRead(): void;
  close(): void;
}

/** `refused`: no listener; `busy`: the listener's backlog is full. */
export type ConnectResult<C> = HostSocket<C> | 'refused' | 'busy';
