/** A real QEMU with a stopped machine: two disks, no guest. Its monitor reads and writes as a guest would. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { systemClock } from '../../src/base/clock.ts';
import { MIB } from '../../src/base/units.ts';
import { DISK_NODES } from '../../src/machine/vmm/qemu/args.ts';
import { QmpClient } from '../../src/machine/vmm/qemu/qmp.ts';

const DISK_MIB = 64;
const GREETING_MS_MAX = 60_000;
/** Under a limit, on a busy machine. */
const IO_MS_MAX = 300_000;

export type Disk = (typeof DISK_NODES)[number];

export class StandingQemu implements AsyncDisposable {
  readonly qmp: QmpClient;
  readonly #child: ChildProcess;
  readonly #dir: string;
  #ids: ReadonlyMap<string, string> = new Map();

  private constructor(child: ChildProcess, dir: string) {
    this.#child = child;
    this.#dir = dir;
    this.qmp = new QmpClient(child.stdio[3] as Duplex, systemClock);
  }

  static async start(): Promise<StandingQemu> {
    const dir = mkdtempSync(join(tmpdir(), 'nv-standing-'));
    const disks = DISK_NODES.flatMap((name) => {
      const filename = join(dir, name);
      writeFileSync(filename, '');
      truncateSync(filename, DISK_MIB * MIB);
      const node = { 'node-name': name, driver: 'raw', file: { driver: 'file', filename } };
      return ['-blockdev', JSON.stringify(node), '-device', `virtio-blk-pci,drive=${name}`];
    });
    const machine = ['-machine', 'pc', '-accel', 'tcg', '-m', '64M', '-S', '-display', 'none'];
    const qmp = ['-chardev', 'socket,id=qmp,fd=3', '-mon', 'chardev=qmp,mode=control'];
    const args = ['-nodefaults', '-no-user-config', ...machine, ...disks, ...qmp];
    const stdio = ['ignore', 'ignore', 'ignore', 'pipe'] as const;
    const qemu = new StandingQemu(spawn('qemu-system-x86_64', args, { stdio: [...stdio] }), dir);
    await qemu.qmp.negotiate(GREETING_MS_MAX);
    const blocks = (await qemu.qmp.execute('query-block')) as { qdev: string; inserted: { 'node-name': string } }[];
    qemu.#ids = new Map(blocks.map((block) => [block.inserted['node-name'], block.qdev]));
    return qemu;
  }

  /** @returns total duration, milliseconds */
  async io(disk: Disk, way: 'read' | 'write', requests: number, bytes: number): Promise<number> {
    const began = performance.now();
    for (let n = 0; n < requests; n += 1) {
      const line = `qemu-io -d ${this.#ids.get(disk)} "${way} -q ${(n * bytes) % (DISK_MIB * MIB)} ${bytes}"`;
      const said = await this.qmp.execute('human-monitor-command', { 'command-line': line }, IO_MS_MAX);
      if (said !== '') throw new Error(String(said));
    }
    return performance.now() - began;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const over = new Promise((resolve) => this.#child.once('close', resolve));
    this.qmp.close();
    this.#child.kill('SIGKILL');
    await over;
    rmSync(this.#dir, { recursive: true });
  }
}
