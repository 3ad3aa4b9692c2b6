/**
 * A driver without a VM, so that the control plane runs in tests on machines without a VMM.
 *
 *     host program ── connect, "CONNECT 5000\n" ──► <channel>          ──► io.onConnect(5000, …)
 *     host program ◄── accepts ────────────────── <channel>_1024       ◄── io.connectToHost(1024)
 *
 * The guest is a function; `scripted-guest.ts` has the default one. There are no channel limits. Snapshots are empty
 * but checked like any other; a guest that starts from one is the same function, called again. Without hot-plug of cards,
 * a snapshot contains its VM's card, as with Firecracker.
 */
import { writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { PassThrough, type Readable, type Writable } from 'node:stream';
import type { Clock } from '../../../src/base/clock.ts';
import { ignore } from '../../../src/base/ignore.ts';
import type {
  Balloon,
  ChannelStats,
  MachineSize,
  NicHotplug,
  NicSpec,
  Vm,
  VmExit,
  VmmDriver,
  VmSnapshot,
  VmSpec,
  VmTimings,
} from '../../../src/machine/vmm/driver.ts';
import { VmmError } from '../../../src/machine/vmm/errors.ts';
import { readSnapshot, stateDigest } from '../../../src/machine/vmm/snapshot.ts';
import { checkFiles, checkSpec } from '../../../src/machine/vmm/spec.ts';
import { ByteTail } from '../../../src/machine/vmm/tail.ts';
import { FakeChannel } from './channel.ts';
import type { FakeGuest, FakeGuestIo } from './guest.ts';
import { scriptedGuest } from './scripted-guest.ts';

const CONSOLE_TAIL_BYTES = 64 * 1024;
const NO_LOG = new ByteTail(1);

interface FakeDriverOptions {
  readonly clock: Clock;
  readonly guest?: FakeGuest;
  /** Default true. */
  readonly hotplugNic?: boolean;
}

export function createFakeDriver(options: FakeDriverOptions): VmmDriver {
  const { hotplugNic = true } = options;
  return {
    name: 'fake',
    description: 'no VM (fake driver)',
    accelerator: 'fake',
    capabilities: { hotplugNic, channelLimits: false },
    machineOf,
    async start(spec, signal) {
      const began = options.clock.now();
      checkSpec(spec, availableParallelism());
      await checkFiles(spec);
      if (spec.snapshot !== undefined) await load(spec, spec.snapshot, hotplugNic);
      const vm = new FakeVm(spec, hotplugNic);
      await spec.memoryReady;
      await vm.plugVsock(spec.guestCid);
      if (spec.nic !== undefined) await vm.plugNic(spec.nic);
      if (signal?.aborted) {
        await vm.kill();
        throw new VmmError('vm_cancelled', 'the start of the VM was canceled', { cause: signal.reason });
      }
      const now = options.clock.now() - began;
      vm.run(options.guest ?? scriptedGuest, { spawnedMs: now, runningMs: now });
      return vm;
    },
  };
}

/** The end of a state with a card. */
const CARD = Buffer.from('with a card\n');

async function load(spec: VmSpec, snapshot: VmSnapshot, hotplugNic: boolean): Promise<void> {
  const state = await readSnapshot(snapshot, machineOf(spec));
  const hasCard = state.subarray(-CARD.length).equals(CARD);
  if (!hotplugNic && hasCard !== (spec.nic !== undefined)) {
    throw new VmmError('vm_unsupported', 'the network cards of VM and snapshot differ');
  }
}

function machineOf(size: MachineSize): string {
  const balloon = size.balloonMib === undefined ? '' : ', balloon';
  return `fake, ${size.cpus} CPUs, ${size.memoryMib} MiB${balloon}`;
}

class FakeVm implements Vm {
  readonly id: string;
  readonly pid = null;
  readonly channelPath: string;
  readonly exited: Promise<VmExit>;
  readonly terminal: { readonly input: Writable; readonly output: Readable } | null;
  readonly vsockHotplug = this;
  readonly nicHotplug?: NicHotplug;
  readonly balloon?: Balloon;
  timings: VmTimings = { spawnedMs: 0, runningMs: 0 };
  readonly #spec: VmSpec;
  #plugged = false;
  #nic: 'absent' | 'withdrawn' | 'plugged' = 'absent';
  readonly #channel: FakeChannel;
  readonly #serialTail = new ByteTail(CONSOLE_TAIL_BYTES);
  readonly #typed = new PassThrough();
  readonly #shown: PassThrough | null;
  readonly #gone = new AbortController();
  readonly #resolveExited: (exit: VmExit) => void;

  constructor(spec: VmSpec, hotplugNic: boolean) {
    if (hotplugNic) this.nicHotplug = this;
    this.id = spec.id;
    this.channelPath = spec.channelPath;
    this.#spec = spec;
    this.#channel = new FakeChannel(spec.channelPath);
    this.#shown = spec.console === 'interactive' ? new PassThrough() : null;
    this.terminal = this.#shown === null ? null : { input: this.#typed, output: this.#shown };
    const { promise, resolve } = Promise.withResolvers<VmExit>();
    this.exited = promise;
    this.#resolveExited = resolve;
    if (spec.balloonMib !== undefined) this.balloon = this.#makeBalloon(spec.balloonMib);
  }

  /** A balloon whose guest obeys at once. */
  #makeBalloon(balloonMib: number): Balloon {
    let nowMib = this.#spec.memoryMib - balloonMib;
    return {
      setMemory: async (memoryMib) => {
        this.#requireRunning();
        if (!(memoryMib > 0 && memoryMib <= this.#spec.memoryMib)) {
          throw new VmmError('vm_spec_invalid', "the VM's memory can't be changed");
        }
        nowMib = memoryMib;
      },
      memoryMib: async () => nowMib,
    };
  }

  /** Starts the guest; an exception is its kernel panic. */
  run(guest: FakeGuest, timings: VmTimings): void {
    this.timings = timings;
    const io: FakeGuestIo = {
      connectToHost: (port) => this.#channel.connectToHost(port),
      onConnect: (port, handler) => this.#channel.onConnect(port, handler),
      print: (text) => this.#print(text),
      typed: this.#typed,
      shutDown: () => this.#end({ cause: 'guest-shutdown', exitCode: 0, signal: null }),
      crash: () => this.#end({ cause: 'vmm-crashed', exitCode: null, signal: 'SIGABRT' }),
      gone: this.#gone.signal,
    };
    void (async () => guest(io, this.#spec))().catch((error: unknown) => {
      this.#print(`Kernel panic: ${String(error)}\n`);
      io.shutDown();
    });
  }

  isAlive(): boolean {
    return !this.#gone.signal.aborted;
  }

  get logs(): Vm['logs'] {
    return { console: this.#serialTail, vmm: NO_LOG };
  }

  consoleTail(): string {
    return this.#serialTail.text();
  }

  async plugVsock(_guestCid: number): Promise<void> {
    this.#requireRunning();
    await this.#channel.open();
    this.#plugged = true;
  }

  async unplugVsock(): Promise<void> {
    this.#requireRunning();
    await this.#channel.close();
    this.#plugged = false;
  }

  async plugNic(_nic: NicSpec): Promise<void> {
    this.#requireRunning();
    if (this.#nic !== 'absent') {
      throw new VmmError('vm_unsupported', 'the VM already has a network card');
    }
    this.#nic = 'plugged';
  }

  async unplugNic(): Promise<void> {
    this.#requireRunning();
    this.#nic = 'absent';
  }

  async withdrawNic(): Promise<void> {
    this.#requireRunning();
    if (this.#nic === 'plugged') this.#nic = 'withdrawn';
  }

  async returnNic(): Promise<void> {
    this.#requireRunning();
    if (this.#nic === 'withdrawn') this.#nic = 'plugged';
  }

  async saveState(statePath: string): Promise<VmSnapshot> {
    this.#requireRunning();
    const hasCard = this.#nic === 'plugged';
    const isRefused = hasCard && this.nicHotplug !== undefined;
    if (this.#spec.memoryFd === undefined || this.#plugged || isRefused) {
      throw new VmmError('vm_unsupported', 'could not take a snapshot of the VM');
    }
    this.#channel.pause();
    const devices = Buffer.from(`fake state of ${this.id}\n`);
    const state = Buffer.concat(hasCard ? [devices, CARD] : [devices]);
    await writeFile(statePath, state, { flag: 'wx', mode: 0o600 });
    return { statePath, stateSha256: stateDigest(state), machine: machineOf(this.#spec) };
  }

  async pause(): Promise<void> {
    this.#requireRunning();
    this.#channel.pause();
  }

  async resume(): Promise<void> {
    this.#requireRunning();
    this.#channel.resume();
  }

  async setChannelLimits(): Promise<void> {
    this.#requireRunning();
    throw new VmmError('vm_unsupported', 'the fake driver has no limits');
  }

  async setDiskLimits(): Promise<void> {
    this.#requireRunning();
  }

  async channelStats(): Promise<ChannelStats> {
    this.#requireRunning();
    return this.#channel.stats();
  }

  async kill(): Promise<void> {
    this.#end({ cause: 'killed', exitCode: null, signal: 'SIGKILL' });
    await this.exited;
  }

  #print(text: string): void {
    const bytes = Buffer.from(text);
    this.#serialTail.push(bytes);
    // A serial line drops unread output.
    if (this.#shown !== null && !this.#shown.writableNeedDrain) this.#shown.write(bytes);
  }

  #end(exit: Omit<VmExit, 'detail'>): void {
    if (this.#gone.signal.aborted) return;
    this.#gone.abort();
    this.#typed.end();
    this.#shown?.end();
    const ended = (): void => this.#resolveExited({ ...exit, detail: '' });
    this.#channel.close().then(ended, (error: unknown) => {
      ignore(error, 'the channel of a fake VM did not close');
      ended();
    });
  }

  #requireRunning(): void {
    if (this.#gone.signal.aborted) throw new VmmError('vm_gone', `the VM ${this.id} is gone`);
  }
}
