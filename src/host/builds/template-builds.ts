/**
 * Builds templates for E2B clients: their steps run in VMs, as a Dockerfile's do, and the result becomes a named
 * template.
 */
import { randomUUID } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { BuildFailure } from '../../api/e2b/errors.ts';
import type {
  BuiltTemplate,
  TemplateBuild,
  TemplateBuildEvent,
  TemplateBuilds,
  TemplateSize,
  TemplateStart,
} from '../../api/e2b/parts.ts';
import { DockerfileError } from '../../artifacts/dockerfile/errors.ts';
import { STAGE_VM_DEFAULTS } from '../../artifacts/dockerfile/limits.ts';
import { loginCommand, type MadeBase, madeStage } from '../../artifacts/dockerfile/made-stage.ts';
import { READY_MADE } from '../../artifacts/ready-made.ts';
import { CodedError, describeError, ifThere, remedyOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { PACKAGE_DIR } from '../../base/package-dir.ts';
import { silentProgress } from '../../base/progress.ts';
import { STAT_BLOCK_BYTES } from '../../base/units.ts';
import type { NetworkOptions } from '../../sandbox/contract/network-spec.ts';
import type { StartCommand } from '../../sandbox/contract/schema/request.ts';
import { type Images, type ImagesContext, openImages, parseReference } from '../runtime/images.ts';
import { keptTemplates } from '../runtime/kept-templates.ts';
import { removeNamed } from '../runtime/named-templates/listing.ts';
import { AGENT, type StoredTemplate } from '../runtime/named-templates/names.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { type BuiltEnvironment, buildEnvironment } from './environment-build.ts';

/** E2B's defaults, except for the disk, for which E2B only specifies the free space. */
const SIZE: TemplateSize = { cpus: Math.min(2, availableParallelism()), memoryMib: 1024, diskMib: 4096 };
/** E2B's default for a program without a readiness check. */
const READY_OTHERWISE = 'sleep 20';
const READY_MS = 600_000;

type OnEvent = (event: TemplateBuildEvent) => void;

export class VmTemplateBuilds implements TemplateBuilds {
  readonly #runtime: Runtime;
  readonly #context: ImagesContext;
  readonly #images: Images;

  constructor(runtime: Runtime, { log, signal, quotaBytes }: { log: Log; signal: AbortSignal; quotaBytes: number }) {
    this.#runtime = runtime;
    this.#context = {
      home: runtime.home,
      progress: silentProgress,
      signal,
      log,
      quotaBytes,
      runtime: async () => runtime,
    };
    this.#images = openImages(this.#context);
  }

  /** The larger need: VMs of steps, or the guest that sandboxes are cloned from. */
  memoryMibOf({ memoryMib = SIZE.memoryMib }: Partial<TemplateSize>): number {
    return Math.max(STAGE_VM_DEFAULTS.memoryMib, memoryMib);
  }

  async build(wanted: TemplateBuild, onEvent: OnEvent, signal: AbortSignal): Promise<BuiltTemplate> {
    const built = await this.#environment(wanted, onEvent, signal);
    const { cpus = SIZE.cpus, memoryMib = SIZE.memoryMib, diskMib = 0 } = wanted.size;
    const size = { cpus, memoryMib, diskMib: Math.max(SIZE.diskMib, diskMib) };
    try {
      const text = 'Start the guest that sandboxes are cloned from';
      onEvent({ kind: 'note', text: `[finalize] ${text}` });
      const image = built.image.digest;
      const start = wanted.start === null ? undefined : startCommand(wanted.start);
      const made = await this.#runtime.templateSource.prepareTemplate({ ...size, image }, start);
      signal.throwIfAborted();
      await this.#runtime.templates.setName(wanted.name, made);
      return { ...size, files: { key: made.key, bytes: await this.#bytesOf(wanted.name, made.key) } };
    } catch (error) {
      throw failure('finalize', error);
    }
  }

  async #bytesOf(name: string, key: string): Promise<number> {
    const { home, templates } = this.#runtime;
    const { image } = await templates.names.get(name);
    const files = (await keptTemplates(home.cacheDir)).find((one) => one.key === key)?.files ?? {};
    const disk = image === undefined ? 0 : (await stat(image.path)).blocks * STAT_BLOCK_BYTES;
    return Object.values(files).reduce((sum, bytes) => sum + bytes, disk);
  }

  async #environment(
    { from, steps, isFresh, mayLogIn }: TemplateBuild,
    onEvent: OnEvent,
    signal: AbortSignal,
  ): Promise<BuiltEnvironment> {
    try {
      const base = await this.#base(from);
      const network = await this.#network(onEvent);
      const copies = steps.flatMap((step) => (step.kind === 'copy' ? [step.archive] : []));
      let line = 0;
      return await buildEnvironment({ ...this.#context, signal }, this.#images, {
        request: {
          dockerfile: madeStage(base, steps, randomUUID),
          dockerfilePath: null,
          contextDir: this.#runtime.home.cacheDir,
          buildArgs: {},
          target: null,
          secrets: new Map(),
          noCache: isFresh,
          archives: new Map(copies.map(({ sha256, path }) => [sha256, path])),
        },
        vm: { ...STAGE_VM_DEFAULTS, network, parts: this.#runtime.packagesFor(mayLogIn) },
        mayLogIn,
        name: null,
        onEvent: (event) => {
          if (event.kind === 'step') {
            line = event.line;
            onEvent({ kind: 'step', step: line, isCached: event.cached });
          } else if (event.kind === 'output') {
            onEvent({ kind: 'output', step: line, stream: event.stream, chunk: Buffer.from(event.chunk) });
          } else if (event.kind === 'warning') onEvent(event);
          else if (event.kind === 'pack') onEvent({ kind: 'note', text: '[finalize] Write the disk' });
        },
      });
    } catch (error) {
      const line = error instanceof DockerfileError ? error.line : 0;
      throw failure(line === 0 ? 'base' : line, error);
    }
  }

  async #base({ kind, name }: TemplateBuild['from']): Promise<MadeBase> {
    if (kind === 'image') {
      const { transport } = parseReference(name, '/');
      if (transport !== 'docker' && transport !== 'stored') {
        throw new BuildFailure('base', `${name}: a build reads no files of the machine of the daemon`);
      }
      return { source: { kind: 'image', reference: name }, kind, user: '' };
    }
    if (name === AGENT) return OURS;
    if (READY_MADE.has(name)) {
      return { source: { kind: 'ready-made', name }, kind: 'environment', user: '' };
    }
    return ofTemplate(await this.#runtime.templates.names.get(name));
  }

  /** The network of sandboxes. Without one, steps still have the package gateway. */
  async #network(onEvent: OnEvent): Promise<NetworkOptions | null> {
    try {
      await this.#runtime.network.open();
      return { mode: 'open', allow: [], deny: [] };
    } catch (error) {
      const text = `steps have no network but the package indexes of the host: ${describeError(error)}`;
      onEvent({ kind: 'warning', text });
      return null;
    }
  }

  async remove(name: string): Promise<void> {
    const { progress, signal, log } = this.#context;
    const { cacheDir } = this.#runtime.home;
    const context = { cacheDir, sourceDir: PACKAGE_DIR, progress, signal, log };
    const { names } = this.#runtime.templates;
    if (!(await names.has(name))) return;
    // It may have been removed meanwhile.
    await ifThere(removeNamed(context, names, name), 'not_found');
  }

  async has(name: string): Promise<boolean> {
    if (READY_MADE.has(name) || name === 'code-interpreter-v1') return true;
    return await this.#runtime.templates.names.has(name);
  }
}

const OURS: MadeBase = { source: { kind: 'agent' }, kind: 'environment', user: '' };

/** @throws BuildFailure */
function ofTemplate({ name, spec, image }: StoredTemplate): MadeBase {
  if ((spec.requirements ?? []).length > 0) {
    throw new BuildFailure('base', `the template ${name} has packages beside its image`);
  }
  if (image === undefined) return OURS;
  const { digest, user, env, workdir, entrypoint, cmd, exposedPorts, stopSignal } = image.environment;
  const program = { user, env, workdir, entrypoint, cmd, exposedPorts, stopSignal };
  const config = { ...program, labels: {}, healthcheck: null };
  const disk = { kind: 'file', path: image.path, digest } as const;
  return { source: { kind: 'given', base: { disk, config } }, kind: 'template', user };
}

/**
 * A program that exits with 0 has left others running, as a service does; ours must stay. E2B's port checks use ss,
 * which many images lack.
 */
function startCommand({ command, ready }: TemplateStart): StartCommand {
  const stay = 'exec sleep infinity';
  const program = command === null ? stay : `${loginCommand(command)} && ${stay}`;
  const check = ready ?? (command === null ? 'true' : READY_OTHERWISE);
  return { command: program, ready: loginCommand(`${SS_OTHERWISE}\n${check}`), readyTimeoutMs: READY_MS };
}

const SS_OTHERWISE = `command -v ss >/dev/null 2>&1 || ss() {
  for word in "$@"; do port=\${word#:}; done
  cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -i ":$(printf %04X "$port") 0\\+:0000 0A"
}`;

function failure(step: BuildFailure['step'], error: unknown): unknown {
  if (error instanceof BuildFailure || !(error instanceof CodedError)) return error;
  // Remedies with options are for the command line.
  const remedy = remedyOf(error);
  const more = remedy === undefined || remedy.includes('--') ? '' : ` (${remedy})`;
  return new BuildFailure(step, `${describeError(error).replace(/^line \d+: /, '')}${more}`, {});
}
