/**
 * A nested host: a Debian VM in QEMU's emulation of AMD's virtualization, whose own /dev/kvm runs Linux. It shows on
 * any machine what otherwise only one with KVM could: Firecracker and QEMU with KVM running Linux guests, on pure
 * cgroup v2.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { sleep } from '../../src/base/clock.ts';
import { ignore } from '../../src/base/ignore.ts';
import { MIB } from '../../src/base/units.ts';
import type { NestedFiles } from './disks.ts';

/**
 * EPYC-v3 has nested paging. One processor: on two, one process of Node.js in ten crashed (4 of 40; 0 of 64 on one), in
 * V8's compiled code, which one processor writes while the other runs it. A kernel that patches itself has crashed
 * there, too.
 */
const CPU = 'EPYC-v3';
const CPUS = 1;
/** The console is for the nested host's output. */
const SYSTEMD = 'systemd.wants=nested.service systemd.mask=serial-getty@ttyS0.service';
const MEMORY_MIB = 6144;
const READY = 'NESTED-HOST-READY';
/** A boot takes 10 s on an idle machine. */
const BOOT_MS_MAX = 600_000;
const LOOK_MS = 200;
const OUTPUT_BYTES_MAX = 4 * MIB;
const STATUS = /\nstatus=(-?\d+)\n$/;

export interface ScriptResult {
  readonly status: number;
  /** Standard output and error, interleaved. */
  readonly output: string;
}

/** The nested host did not start, ended, or its kernel failed: no fault of the tested code. */
export class NestedHostError extends Error {
  override readonly name = 'NestedHostError';
}

export class NestedHost {
  readonly #child: ChildProcess;
  readonly #port: number;
  readonly #key: string;
  readonly #console: string;
  readonly #servers = new Set<Server>();
  readonly #connections = new Set<Socket>();

  private constructor(child: ChildProcess, port: number, key: string, console: string) {
    this.#child = child;
    this.#port = port;
    this.#key = key;
    this.#console = console;
  }

  /**
   * Boots from disks that it does not change.
   * @param dir for console and messages of QEMU
   * @param port a free port of 127.0.0.1
   * @throws NestedHostError
   */
  static async boot(files: NestedFiles, dir: string, port: number): Promise<NestedHost> {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    const console = join(dir, 'console.log');
    await rm(console, { force: true });
    const key = randomBytes(16).toString('hex');
    const disk = (path: string, id: string): string[] => [
      '-drive',
      `file=${path},if=none,id=${id},format=raw,snapshot=on,cache=unsafe`,
      '-device',
      `virtio-blk-pci,drive=${id}`,
    ];
    const words = [
      ['-M', 'q35', '-accel', 'tcg,tb-size=512', '-cpu', CPU],
      ['-smp', `${CPUS}`, '-m', `${MEMORY_MIB}`, '-nodefaults', '-no-user-config'],
      ['-display', 'none', '-no-reboot', '-kernel', files.kernel, '-initrd', files.initrd],
      ['-append', `console=ttyS0 quiet mitigations=off nokaslr key=${key} ${SYSTEMD}`],
      disk(files.debian, 'debian'),
      disk(files.tools, 'tools'),
      disk(files.data, 'data'),
      ['-object', 'rng-random,id=rng,filename=/dev/urandom', '-device', 'virtio-rng-pci,rng=rng'],
      ['-netdev', `user,id=net,hostfwd=tcp:127.0.0.1:${port}-:2222`],
      ['-device', 'virtio-net-pci,netdev=net,romfile=', '-serial', `file:${console}`],
    ].flat();
    const messages = openSync(join(dir, 'qemu.log'), 'w', 0o600);
    // Ends with a test run that is killed.
    const argv = ['--pdeathsig', 'KILL', 'qemu-system-x86_64', ...words];
    const child = spawn('setpriv', argv, { stdio: ['ignore', messages, messages] });
    closeSync(messages);
    child.once('error', (error) => ignore(error, 'its end is noticed'));
    const host = new NestedHost(child, port, key, console);
    try {
      await host.#ready();
    } catch (error) {
      await host.close();
      throw error;
    }
    return host;
  }

  /** Lines that its kernel printed about its own faults. */
  faults(): readonly string[] {
    return this.console().match(/^.*(?:Oops|Kernel panic|BUG:|soft lockup).*$/gm) ?? [];
  }

  /** @throws NestedHostError if it has ended, or its kernel has printed a fault */
  check(): void {
    const fault = this.#fault();
    if (fault !== undefined) throw new NestedHostError(`the nested host failed${fault}`);
  }

  console(): string {
    try {
      return readFileSync(this.#console, 'utf8');
    } catch (error) {
      ignore(error, 'nothing was printed yet');
      return '';
    }
  }

  /** Runs a bash script as root. @throws NestedHostError, or Error if it does not end in time */
  async run(script: string, timeoutMs: number): Promise<ScriptResult> {
    const body = Buffer.from(script);
    const socket = await this.#open({ run: body.length });
    socket.write(body);
    const chunks: Buffer[] = [];
    let bytes = 0;
    const timer = setTimeout(() => socket.destroy(new Error('timeout')), timeoutMs);
    try {
      for await (const chunk of socket as AsyncIterable<Buffer>) {
        bytes += chunk.length;
        if (bytes <= OUTPUT_BYTES_MAX) chunks.push(chunk);
      }
    } catch (cause) {
      const output = Buffer.concat(chunks).toString('utf8').slice(-2000);
      throw this.#error(`a script did not end within ${timeoutMs / 1000} s:\n${output}`, cause);
    } finally {
      clearTimeout(timer);
      socket.destroy();
    }
    const text = Buffer.concat(chunks).toString('utf8');
    const status = STATUS.exec(text)?.[1];
    if (status === undefined) throw this.#error('the connection of a script ended early');
    return { status: Number(status), output: text.replace(STATUS, '') };
  }

  /** Forwards a unix socket of the nested host to a path of this machine. */
  async forward(from: string, to: string): Promise<void> {
    const server = createServer({ allowHalfOpen: true }, (local) => {
      this.#connections.add(local);
      local.once('close', () => this.#connections.delete(local));
      local.on('error', (error) => ignore(error, 'the client left'));
      this.#open({ connect: from }).then(
        (remote) => {
          passOn(local, remote);
          passOn(remote, local);
        },
        () => local.destroy(),
      );
    });
    this.#servers.add(server);
    server.listen(to);
    await once(server, 'listening');
  }

  /** Ends it at once; its disks keep nothing. Idempotent. */
  async close(): Promise<void> {
    for (const server of this.#servers) server.close();
    for (const socket of this.#connections) socket.destroy();
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    if (this.#child.pid === undefined) return;
    const closed = once(this.#child, 'close');
    this.#child.kill('SIGKILL');
    await closed;
  }

  async #ready(): Promise<void> {
    for (let waitedMs = 0; waitedMs < BOOT_MS_MAX; waitedMs += LOOK_MS) {
      if (this.console().includes(READY)) return;
      if (this.#child.exitCode !== null || this.#child.pid === undefined) break;
      await sleep(LOOK_MS);
    }
    throw new NestedHostError(`the nested host did not start${this.#fault() ?? ''}`);
  }

  /** @returns the connection, whose first bytes are the answer's */
  async #open(request: object): Promise<Socket> {
    const socket = connect({ port: this.#port, host: '127.0.0.1', allowHalfOpen: true });
    this.#connections.add(socket);
    socket.once('close', () => this.#connections.delete(socket));
    try {
      await once(socket, 'connect');
    } catch (cause) {
      throw this.#error('no connection to the nested host', cause);
    }
    socket.on('error', (error) => ignore(error, 'its reader notices'));
    socket.write(`${JSON.stringify({ key: this.#key, ...request })}\n`);
    if ('connect' in request) await answered(socket);
    return socket;
  }

  #error(what: string, cause?: unknown): Error {
    const fault = this.#fault();
    if (fault === undefined) return new Error(what, { cause });
    return new NestedHostError(`${what}${fault}`, { cause });
  }

  #fault(): string | undefined {
    const [fault] = this.faults();
    if (fault !== undefined) return `; its kernel printed: ${fault}`;
    const { exitCode, signalCode } = this.#child;
    if (exitCode === null && signalCode === null) return undefined;
    return `; QEMU ended with ${exitCode ?? signalCode}`;
  }
}

/** The pipe forwards an end, once everything is written; this forwards a break. */
function passOn(from: Socket, to: Socket): void {
  from.pipe(to);
  from.once('close', () => {
    if (!from.readableEnded) to.destroy();
  });
}

/** Reads `ok` and a newline. */
async function answered(socket: Socket): Promise<void> {
  let isOver = false;
  const over = () => {
    isOver = true;
  };
  socket.once('end', over).once('close', over);
  while (socket.read('ok\n'.length) === null) {
    if (isOver) throw new Error('refused');
    await Promise.race(['readable', 'end', 'close'].map((event) => once(socket, event)));
  }
}
