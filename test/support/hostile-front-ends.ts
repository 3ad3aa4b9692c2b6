/**
 * Malicious front ends (`test/fixtures/hostile-front-end.c`) against the real vsock devices in a process of their own:
 *
 *     this process                                   process of the devices
 *     polite VMM and program: echo, echo, …   ──►    device ┐
 *     hostile front ends, many one by one     ──►    device ┼ one worker thread
 *                                             ──►    device ┘
 *
 * The process lives, no device ends by a bug of ours, the polite one always answers, and after each round descriptors and
 * memory are what they were.
 */
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { VhostFrontEnd } from '../../prove/vmm/vhost-front-end.ts';
import { KIB, MIB } from '../../src/base/units.ts';
import { makeMemory } from '../../src/host/runtime/ram/memory.ts';
import { fileIdentity } from '../../src/sys/fd.ts';
import { randomFrom } from './run-seed.ts';
import { VsockProcess } from './vsock-process.ts';

const SOURCE = join(import.meta.dirname, '../fixtures/hostile-front-end.c');

/** `MEMORY_BYTES` of the fixture. */
const MEMORY_BYTES = 4 * MIB;
/** Concurrent sessions. */
const LANES = 3;
const SESSION_MS_MAX = 150;
/** Rounds until all code is loaded and compiled. */
const WARM_ROUNDS = 20;
/** Heaps and their gaps grow for a while: after gc() and malloc_trim(3) nothing of it is left. */
const GROWTH_BYTES_MAX = 64 * MIB;
const GROWTH_BYTES_PER_SESSION_MAX = 8 * KIB;
/** For a device that hangs, not one that is slow. */
const ECHO_MS_MAX = 20_000;
const SETTLE_MS_MAX = 20_000;
const POLITE_CID = 3;
const ECHO_PORT = 5000;
/** The fixture dials 80 to 82; the last has no listener. */
const HOST_PORTS = [80, 81];

export interface HostileReport {
  readonly sessions: number;
  /** Number of ended devices by reason, and by its detail without numbers. */
  readonly ends: ReadonlyMap<string, number>;
  /** Connections opened and bytes carried in all hostile sessions: how far they got. */
  readonly connections: number;
  readonly bytes: number;
  /** Round trips of the polite device, milliseconds, ascending. */
  readonly echoMs: readonly number[];
  /** Growth of the process since the first rounds, bytes. */
  readonly growthBytes: number;
}

/** @throws Error with the seed of the round that found a fault */
export async function runHostileFrontEnds(options: {
  readonly seed: number;
  readonly ms: number;
  /** Called after each round. */
  progress?(sessions: number): void;
}): Promise<HostileReport> {
  const world = await World.open();
  try {
    return await world.run(options);
  } finally {
    await world.close();
  }
}

class World {
  readonly #dir: string;
  readonly #program: string;
  readonly #devices: VsockProcess;
  readonly #polite: PoliteVm;
  readonly #ends = new Map<string, number>();
  #lastCid = POLITE_CID;
  #connections = 0;
  #bytes = 0;

  private constructor(dir: string, program: string, devices: VsockProcess, polite: PoliteVm) {
    this.#dir = dir;
    this.#program = program;
    this.#devices = devices;
    this.#polite = polite;
  }

  static async open(): Promise<World> {
    const dir = mkdtempSync(join(tmpdir(), 'nv-hostile-'));
    const program = join(dir, 'front-end');
    execFileSync('gcc', ['-O2', '-Wall', '-static', '-pthread', '-o', program, SOURCE]);
    const devices = new VsockProcess();
    try {
      return new World(dir, program, devices, await PoliteVm.start(devices, dir));
    } catch (error) {
      devices[Symbol.dispose]();
      throw error;
    }
  }

  async run({ seed, ms, progress }: Parameters<typeof runHostileFrontEnds>[0]): Promise<HostileReport> {
    const endMs = performance.now() + ms;
    let before: string | undefined;
    let warmBytes = 0;
    let sessions = 0;
    let growthBytes = 0;
    for (let round = 0; performance.now() < endMs; round += 1) {
      const roundSeed = seed + round;
      try {
        await this.#round(roundSeed);
        sessions += LANES;
        await this.#settled(before);
      } catch (error) {
        throw new Error(`hostile front ends, --seed ${roundSeed}`, { cause: error });
      }
      before ??= this.#held();
      if (round === WARM_ROUNDS) warmBytes = this.#devices.residentBytes();
      if (round > WARM_ROUNDS) growthBytes = this.#devices.residentBytes() - warmBytes;
      if (growthBytes > GROWTH_BYTES_MAX + sessions * GROWTH_BYTES_PER_SESSION_MAX)
        throw new Error(
          `hostile front ends, --seed ${seed}: the process grew by ${growthBytes} bytes in ${sessions} sessions`,
        );
      progress?.(sessions);
    }
    const echoMs = this.#polite.echoMs.toSorted((a, b) => a - b);
    return { sessions, ends: this.#ends, connections: this.#connections, bytes: this.#bytes, echoMs, growthBytes };
  }

  async close(): Promise<void> {
    await this.#polite.close();
    this.#devices[Symbol.dispose]();
    rmSync(this.#dir, { recursive: true });
  }

  async #round(seed: number): Promise<void> {
    const random = randomFrom(seed);
    const polite = this.#polite.echo();
    const lanes = Array.from({ length: LANES }, () => this.#session(random));
    await Promise.all([polite, ...lanes]);
  }

  async #session(random: () => number): Promise<void> {
    this.#lastCid += 1;
    const cid = this.#lastCid;
    const channelPath = join(this.#dir, `c${cid}`);
    const vhostSocketPath = join(this.#dir, `v${cid}`);
    const ram = makeMemory(MEMORY_BYTES);
    const servers: Server[] = [];
    try {
      const { dev, ino } = fileIdentity(ram.fd);
      const memory = { dev: String(dev), ino: String(ino) };
      const device = await this.#devices.attach({ cid, vhostSocketPath, channelPath, memory });
      for (const port of HOST_PORTS) servers.push(await listen(`${channelPath}_${port}`, random() < 0.5));
      const ms = Math.floor(random() * SESSION_MS_MAX);
      const seed = Math.floor(random() * 2 ** 31);
      const args = [vhostSocketPath, String(cid), String(seed), String(ms)];
      const child = spawn(this.#program, args, { stdio: ['ignore', 'ignore', 'inherit', ram.fd] });
      const exited = new Promise((resolve) => child.once('exit', resolve));
      const client = connect(channelPath);
      client.on('error', () => undefined);
      client.end('CONNECT 5001\nhello');
      client.resume();
      const stats = this.#devices.stats(cid);
      await Promise.all([exited, stats]);
      const { reason, detail, stats: last } = await device.closed();
      this.#connections += last.connectionsOpened;
      this.#bytes += last.bytesGuestToHost + last.bytesHostToGuest;
      client.destroy();
      if (reason === 'internal-error') throw new Error(`internal error: ${detail}`);
      const end = `${reason} ${detail.replaceAll(/-?\d+/g, 'n')}`.trim();
      this.#ends.set(end, (this.#ends.get(end) ?? 0) + 1);
    } finally {
      ram.close();
      for (const server of servers) server.close();
    }
  }

  #held(): string {
    return `${this.#devices.descriptors()} descriptors, ${this.#devices.mappings()} mappings`;
  }

  /** @param before resources of the process after the first round */
  async #settled(before: string | undefined): Promise<void> {
    const endMs = performance.now() + SETTLE_MS_MAX;
    while (before !== undefined && this.#held() !== before) {
      if (this.#devices.end !== null) throw new Error(this.#devices.end);
      if (performance.now() > endMs) throw new Error(`${this.#held()}; before: ${before}`);
      await sleep(5);
    }
  }
}

/** A VM and a program of the host that exchange messages all the time. */
class PoliteVm {
  readonly echoMs: number[] = [];
  readonly #vm: VhostFrontEnd;
  readonly #client: Socket;
  #got = '';

  private constructor(vm: VhostFrontEnd, client: Socket) {
    this.#vm = vm;
    this.#client = client;
    client.on('data', (bytes: Buffer) => {
      this.#got += bytes.toString('latin1');
    });
  }

  static async start(devices: VsockProcess, dir: string): Promise<PoliteVm> {
    const [vhostSocketPath, channelPath] = [join(dir, 'polite.v'), join(dir, 'polite')];
    await devices.attach({ cid: POLITE_CID, vhostSocketPath, channelPath, memory: undefined });
    const vm = await VhostFrontEnd.start(vhostSocketPath, POLITE_CID);
    vm.guest.listening.add(ECHO_PORT);
    const client = connect(channelPath);
    client.on('error', () => undefined);
    client.write(`CONNECT ${ECHO_PORT}\n`);
    const polite = new PoliteVm(vm, client);
    await vm.until(() => polite.#got.startsWith('OK'), 'the polite connection', ECHO_MS_MAX);
    return polite;
  }

  /** Some round trips of 4 bytes. */
  async echo(): Promise<void> {
    const [stream] = this.#vm.guest.accepted;
    for (let trip = 0; trip < 20; trip += 1) {
      this.#got = '';
      const startMs = performance.now();
      this.#client.write('ping');
      await this.#vm.until(
        () => {
          if ((stream?.receivedBytes ?? 0) > 0) stream?.write(stream.read());
          return this.#got === 'ping';
        },
        'an echo of the polite VM',
        ECHO_MS_MAX,
      );
      this.echoMs.push(performance.now() - startMs);
      await sleep(5);
    }
  }

  async close(): Promise<void> {
    this.#client.destroy();
    this.#vm.close();
  }
}

async function listen(path: string, isReading: boolean): Promise<Server> {
  const server = createServer({ allowHalfOpen: false, pauseOnConnect: !isReading }, (socket) => {
    socket.on('error', () => undefined);
    if (isReading) socket.pipe(socket);
    else setTimeout(() => socket.destroy(), SESSION_MS_MAX);
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return server;
}
