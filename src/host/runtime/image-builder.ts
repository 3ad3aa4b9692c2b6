/**
 * Builds the EROFS images of layers, each in a VM of its own: it sees one layer, or the layers of one image, and has
 * no network, no model and no other file. Its result is a disk, of which the host takes the first bytes, unopened.
 *
 *     vdc  tools, read-only           mkfs.erofs, unzstd, build.py
 *     vdd  input, read-only           a compressed layer; or layers, one behind the other
 *     vde  output                     the image
 *
 * Each layer has its own VM, since images share layers: a hostile layer could otherwise change the result of another image.
 */
import { chmod, copyFile, constants as fsConstants, open, rename, rm, truncate } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { OutputDisk } from '../../artifacts/image/output-disk.ts';
import {
  BLOCK_BYTES,
  type ImageBuilder,
  type LayerJob,
  type MergeJob,
  readVerdict,
  UNFINISHED,
  VERDICT_BYTES_MAX,
} from '../../artifacts/oci/builder.ts';
import { OciError } from '../../artifacts/oci/errors.ts';
import { isFullDisk, remedyOf } from '../../base/errors.ts';
import { newSandboxId } from '../../base/ids.ts';
import { MIB } from '../../base/units.ts';
import type { Guest, Process } from '../../machine/guest/guest.ts';
import type { SandboxParts, Workspace } from '../../sandbox/contract/parts.ts';
import type { SandboxOptions } from '../../sandbox/contract/spec.ts';
import type { Supervisor } from '../../sandbox/vm/supervisor.ts';
import { makeWorkspace } from './workspace.ts';

/** mkfs.erofs holds every inode in memory: about 1 KiB each. */
const MEMORY_MIB = 1024;
/** One unpacks and hashes while the other writes the image. */
const CPUS = 2;
/** Long enough for the largest layer in software emulation. */
const BUILD_MS_MAX = 30 * 60_000;
/** Space for inodes and directories, beyond the data. */
const METADATA_BYTES = 512 * MIB;
const DISKS = { tools: '/dev/vdc', input: '/dev/vdd', output: '/dev/vde' } as const;
export const TOOLS_DIR = '/mnt';

type BuilderVm = Pick<Supervisor, 'guest' | 'vm' | 'stop'>;

export interface BuilderVms {
  /** Starts a VM with these parts replaced. */
  start(options: SandboxOptions, signal: AbortSignal, replace: Partial<SandboxParts>): Promise<BuilderVm>;
  readonly runDir: string;
  readonly toolsPath: string;
  readonly hostCpus: number;
}

export function makeImageBuilder(vms: BuilderVms): ImageBuilder {
  return {
    async layer(job: LayerJob, outPath, signal) {
      const { blobPath, blobBytes, compression, diffId, unpackedBytesMax } = job;
      await buildInVm(vms, {
        what: `the layer ${diffId.slice('sha256:'.length, 19)}`,
        fillInput: async (path) => {
          await copyFile(blobPath, path, fsConstants.COPYFILE_FICLONE);
          await chmod(path, 0o644);
          await truncate(path, roundUp(blobBytes));
        },
        plan: {
          task: 'layer',
          bytes: blobBytes,
          compression,
          diffId: diffId.slice('sha256:'.length),
          bytesMax: unpackedBytesMax,
        },
        outputBytes: roundUp(unpackedBytesMax) + METADATA_BYTES,
        outPath,
        signal,
      });
    },
    async merge({ layers }: MergeJob, outPath, signal) {
      const total = layers.reduce((sum, { bytes }) => sum + bytes, 0);
      let offset = 0;
      const parts = layers.map(({ bytes }) => {
        offset += bytes;
        return [offset - bytes, bytes];
      });
      await buildInVm(vms, {
        what: 'the image of its layers',
        fillInput: (path) => concatenate(layers, path),
        plan: { task: 'merge', parts },
        outputBytes: total + METADATA_BYTES,
        outPath,
        signal,
      });
    },
  };
}

const roundUp = (bytes: number): number => Math.ceil(bytes / BLOCK_BYTES) * BLOCK_BYTES;

interface Build {
  readonly what: string;
  fillInput(path: string): Promise<void>;
  readonly plan: object;
  /** Size of the output disk, which is sparse. */
  readonly outputBytes: number;
  readonly outPath: string;
  readonly signal: AbortSignal;
}

async function buildInVm(vms: BuilderVms, build: Build): Promise<void> {
  const { what, outputBytes, outPath, signal } = build;
  signal.throwIfAborted();
  // Another process may build the same image.
  const kept = `${outPath}.${newSandboxId()}${UNFINISHED}`;
  const output = new OutputDisk();
  const vm = await startVm(vms, build, output, signal);
  try {
    let bytes: number;
    try {
      const line = await Promise.race([drive(vm, build), fullDisk(vm, what)]);
      bytes = readVerdict(line, what, outputBytes);
      output.keepAt(kept);
    } finally {
      await vm.stop();
    }
    await output.take(bytes);
    await rename(kept, outPath);
  } catch (error) {
    throw failure(what, `could not build ${what}`, error, signal);
  } finally {
    await rm(kept, { force: true });
  }
}

/** QEMU pauses a VM whose disk has no space on the host. Rejects when that happens. */
function fullDisk({ vm }: BuilderVm, what: string): Promise<never> {
  return new Promise((_, reject) => {
    vm?.onDiskTrouble?.(({ path, freeBytes }) =>
      reject(noRoom(what, freeBytes === null ? 'a disk failed' : `${freeBytes} bytes are free in ${dirname(path)}`)),
    );
  });
}

const noRoom = (what: string, cause: unknown): OciError =>
  new OciError('disk_full', `there is no room to build ${what}`, {
    cause,
    remedy: 'Free disk space, for example with: neurovisor image prune',
  });

function failure(what: string, message: string, cause: unknown, signal: AbortSignal): OciError {
  if (signal.aborted) {
    const { reason } = signal;
    return new OciError('cancelled', `building ${what} was canceled`, { cause: reason });
  }
  if (cause instanceof OciError) return cause;
  if (isFullDisk(cause)) {
    return noRoom(what, cause);
  }
  const remedy = remedyOf(cause) ?? 'Try again; `neurovisor doctor` checks what VMs need.';
  return new OciError('build_failed', message, { cause, remedy });
}

async function startVm(vms: BuilderVms, build: Build, output: OutputDisk, signal: AbortSignal): Promise<BuilderVm> {
  const options: SandboxOptions = {
    cpus: Math.min(CPUS, vms.hostCpus),
    memoryMib: MEMORY_MIB,
    timeoutMs: null,
    network: null,
  };
  try {
    return await vms.start(options, signal, {
      makeWorkspace: (spec) => makeBuildPlace(vms, spec.id, build, output),
      attachBridge: async () => NO_MODEL,
    });
  } catch (error) {
    const { what } = build;
    throw failure(what, `could not start the VM that builds ${what}`, error, signal);
  }
}

/** For VMs without a model. */
export const NO_MODEL = {
  setModels: () => undefined,
  inFlight: () => 0,
  setSuspended: () => undefined,
  close: async () => undefined,
};

/** Creates a workspace with the three disks. */
async function makeBuildPlace(
  { runDir, toolsPath }: BuilderVms,
  id: string,
  build: Build,
  kept: OutputDisk,
): Promise<Workspace> {
  const place = await makeWorkspace(runDir, id);
  const input = join(place.dir, 'input');
  const output = join(place.dir, 'output');
  try {
    await build.fillInput(input);
    await makeSparse(output, build.outputBytes);
  } catch (error) {
    await place.remove();
    throw error;
  }
  return {
    ...place,
    disks: [
      { path: toolsPath, access: 'read' },
      { path: input, access: 'read' },
      { path: output, access: 'write' },
    ],
    async remove() {
      await kept.leave(output);
      await place.remove();
    },
  };
}

export async function makeSparse(path: string, bytes: number): Promise<void> {
  await using file = await open(path, 'wx', 0o600);
  await file.truncate(bytes);
}

/** Runs the script in the VM. @returns its line */
async function drive(vm: BuilderVm, { plan, signal }: Build): Promise<string> {
  const guest = vm.guest();
  const as = { user: 'root', cwd: '/', stdin: false, timeoutMs: BUILD_MS_MAX } as const;
  await mountTools(guest, DISKS.tools, signal);
  const argument = JSON.stringify({ ...plan, input: DISKS.input, output: DISKS.output });
  const argv = ['python3', '-I', '-S', join(TOOLS_DIR, 'build.py'), argument];
  const built = await collect(await guest.exec({ ...as, argv }, signal));
  if (built.line === '') throw new Error(`the build ended: ${built.words}`);
  return built.line;
}

export async function mountTools(guest: Guest, device: string, signal: AbortSignal): Promise<void> {
  const argv = ['mount', '-t', 'erofs', '-o', 'ro', device, TOOLS_DIR];
  const as = { user: 'root', cwd: '/', stdin: false } as const;
  const mounted = await collect(await guest.exec({ ...as, argv }, signal));
  if (mounted.exitCode !== 0) throw new Error(`the tools can't be mounted: ${mounted.words}`);
}

interface Collected {
  readonly exitCode: number | null;
  readonly line: string;
  readonly words: string;
}

async function collect(program: Process): Promise<Collected> {
  let line = '';
  let words = '';
  program.stdout.on('data', (chunk: Buffer) => {
    if (line.length <= VERDICT_BYTES_MAX) line += chunk.toString('utf8');
  });
  program.stderr.on('data', (chunk: Buffer) => {
    words = (words + chunk.toString('utf8')).slice(-1_000);
  });
  const { exitCode, timedOut, oomKilled } = await program.exit;
  if (oomKilled) words += ' (out of memory)';
  if (timedOut) words += ` (stopped after ${BUILD_MS_MAX / 60_000} minutes)`;
  return { exitCode, line, words: words.trim() };
}

/** Concatenates layers; each is whole blocks. */
async function concatenate(layers: MergeJob['layers'], path: string): Promise<void> {
  await using to = await open(path, 'wx', 0o644);
  const buffer = Buffer.allocUnsafe(4 * MIB);
  let position = 0;
  for (const layer of layers) {
    await using from = await open(layer.path, 'r');
    const end = position + layer.bytes;
    while (position < end) {
      const { bytesRead } = await from.read(buffer, 0, Math.min(buffer.length, end - position));
      if (bytesRead === 0) throw new OciError('build_failed', 'a cached layer is cut off');
      await to.write(buffer, 0, bytesRead, position);
      position += bytesRead;
    }
  }
}
