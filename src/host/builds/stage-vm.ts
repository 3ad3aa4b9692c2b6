/**
 * The VM of a build stage. It sees the stage's disks and the files that its steps read; apart from the package gateway it
 * has no network unless requested, and no model.
 *
 *     vdc tools, read-only     vdd… base, scratch, sources, cache mounts, output
 */
import { randomUUID } from 'node:crypto';
import { access } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { BaseDisk } from '../../artifacts/dockerfile/base.ts';
import { DockerfileError, diskFull } from '../../artifacts/dockerfile/errors.ts';
import {
  ANSWER_BYTES_MAX,
  type CopyPlan,
  type OnOutput,
  type RunEnd,
  type RunPlan,
  readAnswer,
  type StageDisks,
  type StageVm,
  StepFault,
  type StepMount,
} from '../../artifacts/dockerfile/stage-vm.ts';
import type { Variables } from '../../artifacts/dockerfile/stages.ts';
import { OutputDisk } from '../../artifacts/image/output-disk.ts';
import { formatOverlay } from '../../artifacts/image/overlay.ts';
import { describeError, errorCode, isFullDisk, remedyOf } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { ECOSYSTEMS } from '../../base/request/package-policy.ts';
import { MIB } from '../../base/units.ts';
import type { Process } from '../../machine/guest/guest.ts';
import type { VmDisk } from '../../machine/vmm/driver.ts';
import { DISKS_MAX } from '../../machine/vmm/spec.ts';
import type { NetworkOptions } from '../../sandbox/contract/network-spec.ts';
import { packageVariables } from '../../sandbox/contract/packages.ts';
import type { SandboxParts, Workspace } from '../../sandbox/contract/parts.ts';
import { type BuilderVms, makeSparse, mountTools, NO_MODEL, TOOLS_DIR } from '../runtime/image-builder.ts';
import { makeWorkspace } from '../runtime/workspace.ts';

export interface StageVmOptions {
  readonly cpus: number;
  readonly memoryMib: number;
  /** Size of the scratch disk: the maximum that the steps of a stage may write. */
  readonly diskMib: number;
  /** `null`: no network card. */
  readonly network: NetworkOptions | null;
  /** Default: the host's own. */
  readonly parts?: Pick<SandboxParts, 'attachPackages'>;
}

/** The default environment's disk, which the VM boots from. */
const SYSTEM_DEVICE = '/dev/vda';
/** In the guest's memory. */
const SECRETS_DIR = '/run/neurovisor-secrets';
const NOT_STARTED = 125;
/** Space for inodes and directories, beyond the base and scratch disks. */
const METADATA_BYTES = 512 * MIB;
const CACHES_BYTES = 16 * 1024 * MIB;
/** Configuration of package clients, written by the guest's agent or part of its image. */
const CLIENT_FILES = ['/.cargo/config.toml'];

type Vm = Awaited<ReturnType<BuilderVms['start']>>;

interface Layout {
  readonly disks: readonly VmDisk[];
  readonly plan: object;
  readonly scratch: string;
  readonly caches: string | null;
  readonly output: string | null;
  readonly outputDevice: string | null;
  readonly outputBytes: number;
}

/** @throws DockerfileError `build_failed`, `disk_full`, `instruction_unsupported` */
export async function startStageVm(
  vms: BuilderVms,
  options: StageVmOptions,
  disks: StageDisks,
  signal: AbortSignal,
): Promise<StageVm> {
  let layout: Layout | undefined;
  const kept = new OutputDisk();
  const place = async (id: string): Promise<Workspace> => {
    const workspace = await makeWorkspace(vms.runDir, id);
    try {
      layout = await lay(vms.toolsPath, workspace.dir, options, disks);
    } catch (error) {
      await workspace.remove();
      throw error;
    }
    const { output } = layout;
    return {
      ...workspace,
      disks: layout.disks,
      async remove() {
        if (output !== null) await kept.leave(output);
        await workspace.remove();
      },
    };
  };
  let vm: Vm;
  try {
    vm = await vms.start(
      {
        cpus: Math.min(options.cpus, vms.hostCpus),
        memoryMib: options.memoryMib,
        // Files of the context wait on this disk.
        diskMib: options.diskMib,
        timeoutMs: null,
        network: options.network,
        packages: { ecosystems: ECOSYSTEMS },
      },
      signal,
      { makeWorkspace: ({ id }) => place(id), attachBridge: async () => NO_MODEL, ...options.parts },
    );
  } catch (error) {
    if (error instanceof DockerfileError) throw error;
    if (isFullDisk(error)) throw diskFull(null, error);
    throw failed('the VM that runs the steps could not be started', error);
  }
  const stage = new Stage(vm, layout as unknown as Layout, options, kept, signal);
  try {
    await stage.mount();
    return stage;
  } catch (error) {
    await stage.stop();
    throw error;
  }
}

const failed = (message: string, cause: unknown): DockerfileError =>
  new DockerfileError('build_failed', null, message, {
    cause,
    remedy: remedyOf(cause) ?? 'Try again; `neurovisor doctor` checks what VMs need.',
  });

async function lay(toolsPath: string, dir: string, { diskMib }: StageVmOptions, stage: StageDisks): Promise<Layout> {
  const disks: VmDisk[] = [];
  const add = (path: string, access: VmDisk['access']): string => {
    const known = access === 'read' ? disks.findIndex((one) => one.path === path) : -1;
    const index = known >= 0 ? known : disks.push({ path, access }) - 1;
    return `/dev/vd${String.fromCharCode('c'.charCodeAt(0) + index)}`;
  };
  const base = ({ kind, path }: BaseDisk): string | null =>
    kind === 'none' ? null : kind === 'system' ? SYSTEM_DEVICE : add(path, 'read');
  add(toolsPath, 'read');
  const scratch = join(dir, 'scratch');
  await (stage.fillScratch?.(scratch) ?? formatOverlay(scratch, diskMib * MIB));
  const caches = stage.fillCaches === null ? null : join(dir, 'caches');
  if (caches !== null) {
    await stage.fillCaches?.(caches);
    if (!(await exists(caches))) await formatOverlay(caches, CACHES_BYTES);
  }
  const plan = {
    task: 'mount',
    base: base(stage.base),
    scratch: add(scratch, 'write'),
    sources: stage.sources.map((source) => ({
      base: base(source.base),
      scratch: source.scratch === null ? null : add(source.scratch, 'read'),
    })),
    caches: caches === null ? null : add(caches, 'write'),
  };
  // Sparse, so it can have the maximum size.
  const outputBytes = OUTPUT_BYTES_MAX + METADATA_BYTES;
  const output = stage.packs ? join(dir, 'output') : null;
  if (output !== null) await makeSparse(output, outputBytes);
  const outputDevice = output === null ? null : add(output, 'write');
  if (disks.length > DISKS_MAX) {
    const message = `a stage reads from too many stages and images: ${disks.length} disks`;
    const remedy = `A VM has ${DISKS_MAX}: collect the files in one stage first.`;
    throw new DockerfileError('instruction_unsupported', null, message, { remedy });
  }
  return { disks, plan, scratch, caches, output, outputDevice, outputBytes };
}

/** The same limit as for an image's unpacked layers. */
const OUTPUT_BYTES_MAX = 32 * 1024 * MIB;

async function exists(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch (error) {
    ignore(error, 'no earlier build has left it');
    return false;
  }
}

class Stage implements StageVm {
  readonly disks: StageVm['disks'];
  readonly #vm: Vm;
  readonly #layout: Layout;
  readonly #kept: OutputDisk;
  readonly #signal: AbortSignal;
  readonly #full: Promise<never>;
  readonly #clientEnv: Variables;
  #secrets = 0;

  constructor(vm: Vm, layout: Layout, options: StageVmOptions, kept: OutputDisk, signal: AbortSignal) {
    this.#vm = vm;
    this.#layout = layout;
    this.#kept = kept;
    this.#signal = signal;
    this.disks = { scratch: layout.scratch, caches: layout.caches };
    const policy = { ecosystems: ECOSYSTEMS, allow: [], deny: [], minAgeMs: null, lock: null };
    this.#clientEnv = packageVariables(policy, options.network !== null);
    this.#full = new Promise((_, reject) => {
      vm.vm?.onDiskTrouble?.(({ path, freeBytes }) => {
        const free = `${freeBytes} bytes are free in ${dirname(path)}`;
        reject(diskFull(null, freeBytes === null ? 'a disk failed' : free));
      });
    });
    this.#full.catch((error: unknown) => ignore(error, 'the step that waits reports it'));
  }

  async mount(): Promise<void> {
    await this.#watched(async () => {
      await mountTools(this.#vm.guest(), '/dev/vdc', this.#signal);
      await this.#ask(this.#layout.plan, null);
    });
  }

  async run(plan: RunPlan, onOutput: OnOutput): Promise<RunEnd> {
    return await this.#watched(async () => {
      const mark = `${randomUUID()} `;
      const mounts = [];
      for (const mount of plan.mounts) mounts.push(await this.#place(mount));
      const { APT_CONFIG: apt } = this.#clientEnv;
      const files = [...CLIENT_FILES, ...(apt === undefined ? [] : [apt])];
      const env = plan.network ? { ...this.#clientEnv, ...plan.env } : plan.env;
      const whole = { ...plan, task: 'run', env, mounts, files, mark };
      const program = await this.#start(whole, null);
      const errors = new Marked(mark, (chunk) => onOutput('stderr', chunk));
      program.stdout.on('data', (chunk: Buffer) => onOutput('stdout', chunk));
      program.stderr.on('data', (chunk: Buffer) => errors.add(chunk));
      const { exitCode, signal, oomKilled } = await program.exit;
      if (exitCode === NOT_STARTED && errors.line !== '') readAnswer(errors.line);
      return { exitCode, signal, oomKilled };
    });
  }

  async placeFiles(archive: AsyncIterable<Uint8Array>): Promise<void> {
    await this.#watched(() => this.#ask({ task: 'receive' }, archive));
  }

  async copy(plan: CopyPlan, archive: AsyncIterable<Uint8Array> | null): Promise<void> {
    await this.#watched(() => this.#ask({ ...plan, task: 'copy' }, archive));
  }

  async makeDirectory(path: string): Promise<void> {
    await this.#watched(() => this.#ask({ task: 'directory', path }, null));
  }

  async pack(outPath: string): Promise<void> {
    const { outputDevice, outputBytes } = this.#layout;
    const bytes = await this.#watched(() => this.#ask({ task: 'pack', output: outputDevice }, null));
    if (bytes === undefined || bytes > outputBytes) {
      throw new StepFault('failed', 'the VM gave no valid answer');
    }
    this.#kept.keepAt(outPath);
    await this.stop();
    await this.#kept.take(bytes);
  }

  async stop(): Promise<void> {
    await this.#vm.stop();
  }

  /** Separates failures of the VM from failures of the step. */
  async #watched<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await Promise.race([work(), this.#full]);
    } catch (error) {
      if (error instanceof StepFault || error instanceof DockerfileError) throw error;
      if (errorCode(error) === 'invalid_source') {
        throw new DockerfileError('context_invalid', null, describeError(error));
      }
      throw failed('the VM that runs the steps ended', error);
    }
  }

  async #place(mount: StepMount): Promise<object> {
    if (mount.type !== 'secret') return mount;
    const { secret, ...rest } = mount;
    this.#secrets += 1;
    const file = `${SECRETS_DIR}/${this.#secrets}`;
    await this.#vm.guest().files.write(file, secret, { user: 'root', mode: 0o600 });
    return { ...rest, file };
  }

  async #start(plan: object, archive: AsyncIterable<Uint8Array> | null): Promise<Process> {
    const text = Buffer.from(JSON.stringify(plan));
    const argv = ['python3', '-I', '-S', join(TOOLS_DIR, 'step.py'), `${text.length}`];
    const program = await this.#vm.guest().exec({ argv, user: 'root', cwd: '/' }, this.#signal);
    void this.#feed(program, text, archive);
    return program;
  }

  /** A step that ends early does not read all its input; its answer says why. */
  async #feed(program: Process, plan: Buffer, archive: AsyncIterable<Uint8Array> | null): Promise<void> {
    async function* all(): AsyncGenerator<Uint8Array> {
      yield plan;
      if (archive !== null) yield* archive;
    }
    try {
      await pipeline(Readable.from(all()), program.stdin);
    } catch (error) {
      this.#feedError ??= errorCode(error) === 'invalid_source' ? error : undefined;
      // Without the end of its input the program would wait.
      program.kill();
    }
  }

  #feedError: unknown;

  /** @returns the length of the image; undefined if the step made none */
  async #ask(plan: object, archive: AsyncIterable<Uint8Array> | null): Promise<number | undefined> {
    const program = await this.#start(plan, archive);
    let line = '';
    let words = '';
    program.stdout.on('data', (chunk: Buffer) => {
      if (line.length <= ANSWER_BYTES_MAX) line += chunk.toString('utf8');
    });
    program.stderr.on('data', (chunk: Buffer) => {
      words = (words + chunk.toString('utf8')).slice(-1_000);
    });
    const { oomKilled } = await program.exit;
    if (this.#feedError !== undefined) throw this.#feedError;
    if (line !== '') return readAnswer(line);
    throw new StepFault('failed', oomKilled ? 'out of memory' : words.trim() || 'it said nothing');
  }
}

/** Reads output up to a mark, and the line after it. */
class Marked {
  line = '';
  readonly #mark: string;
  readonly #pass: (chunk: Buffer) => void;

  constructor(mark: string, pass: (chunk: Buffer) => void) {
    this.#mark = mark;
    this.#pass = pass;
  }

  add(chunk: Buffer): void {
    const at = this.line === '' ? chunk.indexOf(this.#mark) : 0;
    if (at < 0) {
      this.#pass(chunk);
      return;
    }
    if (at > 0) this.#pass(chunk.subarray(0, at));
    const rest = chunk.subarray(this.line === '' ? at + this.#mark.length : 0);
    if (this.line.length <= ANSWER_BYTES_MAX) this.line += rest.toString('utf8');
  }
}
