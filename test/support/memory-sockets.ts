/** Host programs in memory, with bounded socket buffers, for the muxer's tests. */
import type { Connection } from '../../src/machine/vsock/connection.ts';
import {
  type ConnectResult,
  type HostSocket,
  READ_WOULD_BLOCK,
  WRITE_BROKEN,
} from '../../src/machine/vsock/host-socket.ts';
import type { Muxer } from '../../src/machine/vsock/muxer.ts';
import type { Segments } from '../../src/machine/vsock/segments.ts';

/** Both ends of one socket: the muxer's (`HostSocket`) and the host program's (the other methods). */
export class MemorySocket implements HostSocket<Connection> {
  readonly #capacity: number;
  readonly #muxer: () => Muxer;
  #connection: Connection | undefined;
  #watchesRoom = false;
  /** Bytes from the guest that the host program has not read. */
  #toProgram: Uint8Array[] = [];
  #toProgramBytes = 0;
  /** The program reads everything just before every third write, as if it ran concurrently. */
  readonly #isRacy: boolean;
  #writes = 0;
  #toGuest: Uint8Array[] = [];
  isClosed = false;
  /** The muxer has announced the end. */
  isEnded = false;
  isReadEnded = false;
  #programEnded = false;
  #programClosed = false;

  constructor(capacity: number, muxer: () => Muxer, isRacy = false) {
    this.#capacity = capacity;
    this.#isRacy = isRacy;
    this.#muxer = muxer;
  }

  // ── the muxer's end ──

  serve(connection: Connection): void {
    this.#connection = connection;
    if (this.#toGuest.length > 0) this.#muxer().hostReadable(connection, this.#programEnded);
  }

  read(segments: Segments): number {
    let count = 0;
    for (let index = 0; index < segments.count; index += 1) {
      const target = segments.at(index);
      for (let at = 0; at < target.length; ) {
        const [bytes] = this.#toGuest;
        if (bytes === undefined) break;
        const piece = bytes.subarray(0, target.length - at);
        target.set(piece, at);
        at += piece.length;
        count += piece.length;
        if (piece.length === bytes.length) this.#toGuest.shift();
        else this.#toGuest[0] = bytes.subarray(piece.length);
      }
    }
    if (count > 0) return count;
    return this.#programEnded || this.#programClosed ? 0 : READ_WOULD_BLOCK;
  }

  write(segments: Segments): number {
    if (this.#programClosed) return WRITE_BROKEN;
    this.#race();
    let count = 0;
    let isFull = false;
    segments.forEachFrom(0, (bytes) => {
      if (isFull) return;
      const size = this.#take(bytes);
      count += size;
      isFull = size < bytes.length;
    });
    return count;
  }

  writeHeld(bytes: Uint8Array): number {
    if (this.#programClosed) return WRITE_BROKEN;
    this.#race();
    return this.#take(bytes);
  }

  watchRoom(isOn: boolean): void {
    this.#watchesRoom = isOn;
  }

  endWrite(): void {
    this.isEnded = true;
  }

  endRead(): void {
    this.isReadEnded = true;
  }

  close(): void {
    if (this.isClosed) throw new Error('closed twice');
    this.isClosed = true;
    this.#connection = undefined;
  }

  // ── the program's end ──

  programWrite(bytes: Uint8Array): void {
    if (this.isClosed || this.isReadEnded || this.#programEnded || bytes.length === 0) return;
    this.#toGuest.push(bytes);
    if (this.#connection !== undefined) this.#muxer().hostReadable(this.#connection, false);
  }

  get hasProgramEnded(): boolean {
    return this.#programEnded || this.isClosed || this.isReadEnded;
  }

  programRead(max = Number.POSITIVE_INFINITY): Uint8Array {
    const parts: Uint8Array[] = [];
    let left = max;
    while (left > 0) {
      const [bytes] = this.#toProgram;
      if (bytes === undefined) break;
      const piece = bytes.subarray(0, left);
      parts.push(piece);
      left -= piece.length;
      this.#toProgramBytes = Math.max(0, this.#toProgramBytes - piece.length);
      if (piece.length === bytes.length) this.#toProgram.shift();
      else this.#toProgram[0] = bytes.subarray(piece.length);
    }
    if (this.#watchesRoom && this.#connection !== undefined && parts.length > 0)
      this.#muxer().hostHasRoom(this.#connection);
    return Buffer.concat(parts);
  }

  /** shutdown(SHUT_WR) by the program. */
  programEnd(): void {
    if (this.#programEnded || this.#programClosed) return;
    this.#programEnded = true;
    if (this.#connection !== undefined) this.#muxer().hostReadable(this.#connection, true);
  }

  programClose(nowMs: number): void {
    if (this.#programClosed) return;
    this.#programClosed = true;
    this.#programEnded = true;
    const connection = this.#connection;
    if (connection === undefined) return;
    this.#muxer().hostReadable(connection, true);
    if (this.#connection !== undefined) this.#muxer().hostHungUp(connection, nowMs);
  }

  /** Read bytes no longer count against the buffer; `programRead` still returns them. */
  #race(): void {
    this.#writes += 1;
    if (this.#isRacy && this.#writes % 3 === 0) this.#toProgramBytes = 0;
  }

  #take(bytes: Uint8Array): number {
    const size = Math.min(bytes.length, this.#capacity - this.#toProgramBytes);
    if (size <= 0) return 0;
    this.#toProgram.push(bytes.slice(0, size));
    this.#toProgramBytes += size;
    return size;
  }
}

/** Listeners of the host, by port. */
export class MemoryHost {
  readonly #capacity: number;
  readonly #isRacy: boolean;
  readonly accepted = new Map<number, MemorySocket[]>();
  /** Ports whose backlog is full. */
  readonly busy = new Set<number>();
  readonly all: MemorySocket[] = [];
  muxer: Muxer | undefined;

  /**
   * @param capacity bytes that one socket buffers
   * @param isRacy its programs read while the device writes
   */
  constructor(capacity: number, isRacy = false) {
    this.#capacity = capacity;
    this.#isRacy = isRacy;
  }

  listen(port: number): void {
    this.accepted.set(port, []);
  }

  readonly connect = (port: number): ConnectResult<Connection> => {
    const queue = this.accepted.get(port);
    if (queue === undefined) return 'refused';
    if (this.busy.has(port)) return 'busy';
    const socket = this.socket();
    queue.push(socket);
    return socket;
  };

  /** A socket of a host client. */
  socket(): MemorySocket {
    const socket = new MemorySocket(
      this.#capacity,
      () => {
        if (this.muxer === undefined) throw new Error('no muxer');
        return this.muxer;
      },
      this.#isRacy,
    );
    this.all.push(socket);
    return socket;
  }
}
