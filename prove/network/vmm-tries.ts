/**
 * A VMM that its guest has taken over, beside a polite one: what it hands to the thread of vsock devices that serves
 * both. The process of the proof is the daemon: memory that ends a process would end the proof.
 */
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sleep } from '../../src/base/clock.ts';
import { ignore } from '../../src/base/ignore.ts';
import { MIB } from '../../src/base/units.ts';
import { makeMemory } from '../../src/host/runtime/ram/memory.ts';
import { createVsockHost, type VsockDevice, type VsockHost } from '../../src/machine/vsock/host.ts';
import { fileIdentity, sealSize } from '../../src/sys/fd.ts';
import { libc } from '../../src/sys/libc.ts';
import { DIR_PREFIX } from '../map.ts';
import type { Notes } from '../proof.ts';
import { VhostFrontEnd } from '../vmm/vhost-front-end.ts';

/** A multiple of a huge page, with room for the rings. */
const MEMORY_BYTES = 64 * MIB;
const ANSWER_MS_MAX = 10_000;
const PORT = 5000;
/** memfd_create(2) */
const MFD_CLOEXEC_ALLOW_SEALING = 3;
const MFD_HUGETLB = 4;
const memfdCreate = libc.func('int memfd_create(const char *name, unsigned int flags)');

interface Vmm {
  readonly device: VsockDevice;
  readonly frontEnd: VhostFrontEnd;
  readonly channelPath: string;
}

class Devices implements AsyncDisposable {
  readonly #dir = mkdtempSync(join(tmpdir(), DIR_PREFIX));
  readonly #host: VsockHost = createVsockHost();
  readonly #frontEnds: VhostFrontEnd[] = [];
  #cid = 100;

  /** @param takesAny the device takes any file for the memory of the VM */
  async start(takesAny = false): Promise<Vmm> {
    this.#cid += 1;
    const name = join(this.#dir, `v${this.#cid}`);
    // Of the guest's size, sealed, as each VM of the product gets it. The front end closes it.
    const { fd } = makeMemory(MEMORY_BYTES);
    const [guestCid, vhostSocketPath] = [this.#cid, `${name}.vhost`];
    const memory = takesAny ? {} : { memory: fileIdentity(fd) };
    const device = await this.#host.attach({ id: name, guestCid, vhostSocketPath, channelPath: name, ...memory });
    const frontEnd = VhostFrontEnd.connect(vhostSocketPath, guestCid, fd);
    this.#frontEnds.push(frontEnd);
    await frontEnd.negotiate();
    frontEnd.guest.listening.add(PORT);
    return { device, frontEnd, channelPath: name };
  }

  file(): number {
    const fd = openSync(join(this.#dir, 'file'), 'w+');
    ftruncateSync(fd, MEMORY_BYTES);
    return fd;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const frontEnd of this.#frontEnds) frontEnd.close();
    await this.#host.close();
    rmSync(this.#dir, { recursive: true });
  }
}

/** @param takesAny for tests: the devices take any memory, and huge pages, which would end this process, are not tried */
export async function tryTakenOverVmm(notes: Notes, takesAny = false): Promise<void> {
  await using devices = new Devices();
  const polite = await devices.start();
  polite.frontEnd.shareMemory();
  polite.frontEnd.startRings([0, 0]);
  notes.same('control: a polite VM answers on its channel', 'answered', await call(polite));
  const files: readonly (readonly [string, () => number])[] = [
    ['a sealed file that it made, whose pages would count as ours', () => memFd(0)],
    ['a file of a file system, which it can truncate', () => devices.file()],
    ...(takesAny ? [] : [['huge pages, whose first use ends a process', () => memFd(MFD_HUGETLB)] as const]),
  ];
  for (const [what, make] of files) {
    const { device, frontEnd } = await devices.start(takesAny);
    const fd = make();
    frontEnd.shareMemory(MEMORY_BYTES, fd);
    closeSync(fd);
    frontEnd.startRings([0, 0]);
    notes.same(`a taken-over VMM gives ${what}`, 'its channel ends', await endOf(device));
    notes.same('… and a polite VM', 'answered', await call(polite));
  }
  const blocking = await devices.start();
  blocking.frontEnd.shareMemory();
  blocking.frontEnd.startRings([0, 0]);
  await call(blocking);
  blocking.frontEnd.blockCalls();
  // Each of its packets makes the device signal it.
  blocking.frontEnd.guest.dial(PORT, 1);
  const { streams } = blocking.frontEnd.guest;
  await blocking.frontEnd
    .until(() => streams.size === 0, 'the reset')
    .catch((error: unknown) => {
      ignore(error, 'the polite VM shows whether the thread is stuck');
    });
  notes.same('a taken-over VMM makes writes to its eventfds block; a polite VM', 'answered', await call(polite));
}

function memFd(flags: number): number {
  const fd: number = memfdCreate('memory', MFD_CLOEXEC_ALLOW_SEALING | flags);
  ftruncateSync(fd, MEMORY_BYTES);
  sealSize(fd);
  return fd;
}

async function endOf(device: VsockDevice): Promise<string> {
  const late = sleep(ANSWER_MS_MAX).then(() => 'its channel works');
  return await Promise.race([late, device.closed.then(() => 'its channel ends')]);
}

/** Calls the guest's port, and runs the guest until it answers. */
async function call({ frontEnd, channelPath }: Vmm): Promise<string> {
  const client = connect(channelPath);
  client.on('error', (error) => ignore(error, 'it counts as silence'));
  let text = '';
  client.on('data', (bytes: Buffer) => {
    text += bytes.toString('latin1');
  });
  client.write(`CONNECT ${PORT}\n`);
  try {
    await frontEnd.until(() => text.startsWith('OK'), 'an answer', ANSWER_MS_MAX);
    return 'answered';
  } catch (error) {
    ignore(error, 'its message is the silence');
    return 'silence';
  } finally {
    client.destroy();
  }
}
