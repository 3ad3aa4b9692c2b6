/** Measures round trips and throughput between a host program and the guest of `fixtures/vsock-guest.c`. */
import type { Socket } from 'node:net';
import { CodedError } from '../../src/base/errors.ts';
import { ignore } from '../../src/base/ignore.ts';
import { MIB } from '../../src/base/units.ts';

type VsockBenchErrorCode =
  /** The guest did not boot or answer in time. */
  'guest_silent' | 'backend_failed';

export class VsockBenchError extends CodedError<VsockBenchErrorCode> {}

export interface TrafficSamples {
  /** Round trips of 4 bytes, microseconds. */
  readonly rttUs: number[];
  /** Guest to host, MB (2²⁰) per second, one value per round. */
  readonly g2hMbPerS: number[];
  /** Host to guest, MB (2²⁰) per second, one value per round. */
  readonly h2gMbPerS: number[];
  /** Measured CPU time for `MIB_PER_ROUND`, milliseconds; empty if unknown. */
  readonly g2hCpuMs: number[];
  readonly h2gCpuMs: number[];
}

/** Keeps a lost wake-up from hanging the benchmark. */
const SILENCE_MS_MAX = 20_000;
const ROUND_TRIPS_PER_ROUND = 1_000;
const WARM_UP_ROUND_TRIPS = 200;
export const MIB_PER_ROUND = 64;

export class GuestTraffic {
  readonly samples: TrafficSamples = { rttUs: [], g2hMbPerS: [], h2gMbPerS: [], g2hCpuMs: [], h2gCpuMs: [] };
  readonly #dial: () => Promise<Socket>;
  readonly #cpuMs: (() => number) | undefined;

  /**
   * @param dial connects to the guest's server
   * @param cpuMs CPU time used so far by the measured part
   */
  constructor(dial: () => Promise<Socket>, cpuMs?: () => number) {
    this.#dial = dial;
    this.#cpuMs = cpuMs;
  }

  /** Runs uncounted round trips. @throws VsockBenchError */
  async warmUp(): Promise<void> {
    await this.#roundTrips(WARM_UP_ROUND_TRIPS);
  }

  /** Adds one round to `samples`. @throws VsockBenchError */
  async round(): Promise<void> {
    this.samples.rttUs.push(...(await this.#roundTrips(ROUND_TRIPS_PER_ROUND)));
    const beforeMs = this.#cpuMs?.() ?? Number.NaN;
    this.samples.g2hMbPerS.push(await this.guestToHost(MIB_PER_ROUND));
    const betweenMs = this.#cpuMs?.() ?? Number.NaN;
    this.samples.h2gMbPerS.push(await this.hostToGuest(MIB_PER_ROUND));
    if (this.#cpuMs === undefined) return;
    this.samples.g2hCpuMs.push(betweenMs - beforeMs);
    this.samples.h2gCpuMs.push(this.#cpuMs() - betweenMs);
  }

  /** The guest sends `mebibytes`. @returns MB per second from the first byte to the last */
  async guestToHost(mebibytes: number): Promise<number> {
    const { socket } = await this.#open(`SOURCE ${mebibytes}\n`);
    let received = 0;
    let startMs = 0;
    const { promise, resolve } = Promise.withResolvers<void>();
    socket.on('data', (bytes) => {
      if (received === 0) startMs = performance.now();
      received += bytes.length;
      if (received >= mebibytes * MIB) resolve();
    });
    socket.on('error', (error) => ignore(error, 'the missing bytes report it'));
    socket.on('close', () => resolve());
    await promise;
    const elapsedMs = performance.now() - startMs;
    socket.destroy();
    if (received !== mebibytes * MIB)
      throw new VsockBenchError('guest_silent', `expected ${mebibytes} MiB from the guest, got ${received} bytes`);
    return received / MIB / (elapsedMs / 1000);
  }

  /** The guest reads `mebibytes` and confirms. @returns MB per second */
  async hostToGuest(mebibytes: number): Promise<number> {
    const { socket, next } = await this.#open(`SINK ${mebibytes}\n`);
    await next();
    const block = Buffer.alloc(256 * 1024);
    // Awaited from now on: it may arrive before the last `drain`.
    const confirmation = next();
    const startMs = performance.now();
    for (let sent = 0; sent < mebibytes * MIB; sent += block.length) {
      if (socket.write(block)) continue;
      await new Promise((resolve) => socket.once('drain', resolve));
    }
    const counted = Number(String(await confirmation));
    const elapsedMs = performance.now() - startMs;
    socket.destroy();
    if (counted !== mebibytes * MIB)
      throw new VsockBenchError('guest_silent', `sent ${mebibytes} MiB, but the guest got ${counted} bytes`);
    return mebibytes / (elapsedMs / 1000);
  }

  async #roundTrips(count: number): Promise<number[]> {
    const { socket, next } = await this.#open('ECHO\n');
    await next();
    const samples: number[] = [];
    for (let index = 0; index < count; index += 1) {
      const startMs = performance.now();
      socket.write('ping');
      await next();
      samples.push((performance.now() - startMs) * 1000);
    }
    socket.destroy();
    return samples;
  }

  async #open(line: string): Promise<{ socket: Socket; next: () => Promise<Buffer> }> {
    const socket = await this.#dial();
    socket.setTimeout(SILENCE_MS_MAX, () => socket.destroy(new Error('no data within the time limit')));
    socket.write(line);
    return { socket, next: () => nextBytes(socket) };
  }
}

/** @throws VsockBenchError `guest_silent` if the socket ends first */
export function nextBytes(socket: Socket): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const onError = (error?: Error): void =>
      reject(new VsockBenchError('guest_silent', 'the guest ended the connection', { cause: error }));
    socket.once('data', (bytes) => {
      socket.off('error', onError).off('close', onError);
      resolve(bytes);
    });
    socket.once('error', onError).once('close', onError);
  });
}
