/**
 * Gets a VM for a request in the fastest possible way.
 *
 *     pool has a member ───────────────► bind it to the request          milliseconds
 *     template ── queue ─┬─────────────► clone                           a third of a second
 *                        └─ a member becomes ready meanwhile ─► bind it
 *     no template, or its clone fails ─► boot                            a second and more
 *
 * An empty pool or a missing template is not an error. Times are for software emulation.
 */
import type { Clock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { orAborted, timeLimit } from '../../base/time-limit.ts';
import { passiveTracer, type Tracer } from '../../base/trace/trace.ts';
import type { CreateRequest, SandboxInfo } from '../contract/control.ts';
import type { EnvironmentSource } from '../contract/environment.ts';
import { isWithoutParts, SandboxError } from '../contract/errors.ts';
import { DEFAULT_QUEUE_TIMEOUT_MS } from '../contract/limits.ts';
import type { StartSource } from '../contract/parts.ts';
import type { ResolvedOptions, SandboxOptions, SandboxSpec, TemplateSpec } from '../contract/spec.ts';
import type { Supervisor } from '../vm/supervisor.ts';
import { type OpenTemplate, Pools, type Started } from './pools.ts';
import { openGate, requireUncordoned, type StartGate } from './start-gate.ts';
import type { Handover, StartQueue, StartRequest } from './start-queue.ts';
import type { NamedTemplate } from './template.ts';

/** The expected memory use of a start. */
export interface StartSizes {
  /** Whether a clone of this size maps RAM that it may share. */
  canShare(spec: Pick<SandboxSpec, 'memoryMib' | 'memoryMaxMib'>): boolean;
  /** Expected own memory of such a clone, MiB. */
  expectedMib(sizeMib: number): number;
}

export interface StarterParts {
  readonly clock: Clock;
  readonly log: Log;
  readonly queue: StartQueue;
  /** If omitted, all starts have one owner, without limits. */
  readonly gate?: StartGate | undefined;
  /** If omitted, a start counts with its whole size. */
  readonly sizes?: StartSizes | undefined;
  /** If omitted, nothing is traced. */
  readonly tracer?: Tracer | undefined;
  makeSpec(options: ResolvedOptions): SandboxSpec;
  /**
   * Returns the image's environment, pulling it if needed. Omitted if there are no images. @throws SandboxError
   * `image_failed`
   */
  /** @param mayLogIn whether this host logs in at a registry for the owner */
  resolveImage?(image: string, signal: AbortSignal, mayLogIn: (host: string) => boolean): Promise<EnvironmentSource>;
  /**
   * Creates a supervisor without starting it.
   * @param source `null`: boots with a new disk
   * @param environmentPath the environment's file, if `source` is `null`
   * @param sharers see `SandboxParts`
   */
  supervise(
    spec: SandboxSpec,
    source: StartSource | null,
    environmentPath: string | undefined,
    sharers: string | null,
  ): Supervisor;
  /** Omitted if there is no network. @throws SandboxError `network_unavailable` if this host can't provide one */
  openNetwork?(): Promise<unknown>;
  /**
   * The template for a request of this size; `null`: boot instead.
   * @param named the inputs of the template that the request names
   */
  templateFor(
    options: SandboxOptions,
    environment: EnvironmentSource | undefined,
    named: TemplateSpec | null,
  ): Promise<OpenTemplate | null>;
}

export interface CloneOwner {
  readonly annotations?: SandboxInfo['annotations'] | undefined;
  /** Id of the sandbox to resume, or whose files another VM reads; `null` for a new one. */
  readonly resumes?: string | null | undefined;
  /** Clones that the same request starts (default 1): the queue timeout is extended for each of them. */
  readonly copies?: number | undefined;
}

/** A claim waits this long for a guest that hangs; a healthy one answers within milliseconds. */
const BIND_MS_MAX = 2000;
/** Owner of pool members. */
const HOST = 'host';

export class Starter {
  readonly pools: Pools;
  readonly #parts: StarterParts;
  readonly #tracer: Tracer;
  readonly #gate: StartGate;

  constructor(parts: StarterParts) {
    this.#parts = parts;
    this.#gate = parts.gate ?? openGate;
    this.#tracer = parts.tracer ?? passiveTracer();
    this.pools = new Pools({
      clock: parts.clock,
      log: parts.log,
      // Outside any trace: a refill is not part of the claim that caused it.
      start: (template, signal) => this.#tracer.run(null, () => this.#startMember(template, signal)),
      turn: async ({ spec, source }, signal, work) => {
        requireUncordoned(this.#gate);
        const needed = this.#neededBy(spec, source, this.#gate.sharersOf(null));
        const place = { ...needed, sizeMib: spec.memoryMib, priority: 'low' } as const;
        await parts.queue.run({ ...place, tenant: HOST, queueTimeoutMs: null, signal }, work);
      },
    });
  }

  async start(request: CreateRequest, signal: AbortSignal, named: NamedTemplate | null = null): Promise<Started> {
    const image = named === null ? await this.#resolve(request, signal) : named.image;
    const place = image === undefined ? {} : { environment: image.environment };
    const spec = this.#parts.makeSpec({ ...request, ...place, timeoutMs: null });
    await this.#requireNetwork(spec);
    const needs = named !== null || hasPackages(request);
    if (request.boot === true && needs) throw withoutTemplate();
    return await this.#admitted(request, spec, async () => {
      const template = request.boot === true ? null : await this.#template(request, image, named?.spec ?? null, signal);
      return await this.#startAdmitted(request, spec, { template, image, needs }, signal);
    });
  }

  async #startAdmitted(
    request: CreateRequest,
    spec: SandboxSpec,
    from: {
      readonly template: OpenTemplate | null;
      readonly image: EnvironmentSource | undefined;
      readonly needs: boolean;
    },
    signal: AbortSignal,
  ): Promise<Started> {
    const { template, image, needs } = from;
    const sharers = this.#sharersOf(request);
    // A member's guest is past the point where it mounts volumes.
    const isPooled = template !== null && spec.volumes.length === 0;
    if (isPooled) {
      this.pools.renew(template);
      const claimed = await this.#claim(template.key, spec, sharers, signal);
      if (claimed !== undefined) return claimed;
    }
    const cloneOrBoot = (both: AbortSignal): Promise<Started> =>
      this.#cloneOrBoot(spec, template, { path: image?.path, needsTemplate: needs, sharers }, both);
    const handover = isPooled ? this.pools.handover(template.key) : undefined;
    const clone = { source: template?.source ?? null, start: cloneOrBoot };
    const started = await this.#queued(request, spec, signal, clone, handover);
    if (started.isBound) return started;
    if (fits(started, sharers) && (await this.#bind(started, spec, signal))) return started;
    await started.supervisor.stop();
    return await this.#queued(request, spec, signal, clone);
  }

  /** Starts from a snapshot, with the snapshot's size and warm list. */
  async startFromSnapshot(
    request: CreateRequest,
    snapshot: { readonly spec: TemplateSpec; readonly source: StartSource },
    signal: AbortSignal,
  ): Promise<Started> {
    if (hasPackages(request)) throw ofSnapshot('packages', 'requirements');
    if (request.image !== undefined) throw ofSnapshot('image', 'image');
    const spec = this.#parts.makeSpec({ ...request, memoryMaxMib: undefined, ...snapshot.spec, timeoutMs: null });
    await this.#requireNetwork(spec);
    const start = (both: AbortSignal): Promise<Supervisor> =>
      this.#startOne(spec, snapshot.source, undefined, this.#sharersOf(request), both);
    return await this.#admitted(request, spec, async () => {
      const from = { source: snapshot.source, start };
      const supervisor = await this.#queued(request, spec, signal, from);
      return { supervisor, origin: 'snapshot', isBound: true };
    });
  }

  /** Starts a VM from `source` once the queue admits it. */
  async startFrom(spec: SandboxSpec, source: StartSource, owner: CloneOwner, signal: AbortSignal): Promise<Supervisor> {
    const start = (both: AbortSignal): Promise<Supervisor> =>
      this.#startOne(spec, source, undefined, this.#sharersOf(owner), both);
    const { annotations, copies = 1 } = owner;
    const isResume = owner.resumes != null;
    const request = { annotations, isResume, queueTimeoutMs: DEFAULT_QUEUE_TIMEOUT_MS * copies };
    const { supervisor } = await this.#admitted(owner, spec, async () => ({
      supervisor: await this.#queued(request, spec, signal, { source, start }),
    }));
    return supervisor;
  }

  /** Asks the owner's gate before it waits for anything. @throws as `StartGate.admit` */
  async #admitted<T extends { readonly supervisor: Supervisor }>(
    { annotations = {}, resumes = null }: CloneOwner,
    spec: SandboxSpec,
    start: () => Promise<T>,
  ): Promise<T> {
    const { id, cpus, memoryMaxMib, memoryMib, diskMib } = spec;
    const size = { cpus, memoryMib: memoryMaxMib ?? memoryMib, diskMib };
    const reservation = this.#gate.admit({ annotations, id, resumes, ...size });
    try {
      const started = await start();
      const { supervisor } = started;
      // A VM beside its sandbox is no sandbox: what it takes is reserved until it ends.
      if (resumes !== null && resumes !== id) void supervisor.ended.then(() => reservation.release());
      else reservation.runsAs(supervisor.spec.id);
      return started;
    } catch (error) {
      reservation.release();
      throw error;
    }
  }

  /** Fails early: before the queue, and before anything starts. */
  async #requireNetwork(spec: SandboxSpec): Promise<void> {
    if (spec.network !== null) await this.#parts.openNetwork?.();
  }

  /** @throws SandboxError `image_failed`, `cancelled` */
  async #resolve(
    { image, annotations = {} }: CreateRequest,
    signal: AbortSignal,
  ): Promise<EnvironmentSource | undefined> {
    if (image === undefined) return undefined;
    const { resolveImage } = this.#parts;
    if (resolveImage === undefined) {
      throw new SandboxError('image_failed', 'this host has no images for sandboxes');
    }
    const mayLogIn = (host: string): boolean => this.#gate.mayLogIn(annotations, host);
    return await orAborted(resolveImage(image, signal, mayLogIn), signal);
  }

  async #cloneOrBoot(
    spec: SandboxSpec,
    template: OpenTemplate | null,
    boot: { readonly path: string | undefined; readonly needsTemplate: boolean; readonly sharers: string | null },
    signal: AbortSignal,
  ): Promise<Started> {
    if (template !== null) {
      try {
        const cloned = { ...spec, warm: template.warm };
        const { source } = template;
        const supervisor = await this.#startOne(cloned, source, undefined, boot.sharers, signal);
        return { supervisor, origin: 'clone', isBound: true };
      } catch (error) {
        if (signal.aborted || isWithoutParts(error)) throw error;
        if (boot.needsTemplate) throw error;
        const reason = describeError(error);
        this.#parts.log.warn('a sandbox could not start from its template; it boots instead', { reason });
      }
    }
    const supervisor = await this.#startOne(spec, null, boot.path, boot.sharers, signal);
    return { supervisor, origin: 'boot', isBound: true };
  }

  async #template(
    request: CreateRequest,
    image: EnvironmentSource | undefined,
    named: TemplateSpec | null,
    signal: AbortSignal,
  ): Promise<OpenTemplate | null> {
    try {
      return await orAborted(this.#parts.templateFor(request, image, named), signal);
    } catch (error) {
      if (signal.aborted) throw cancelled(signal);
      if (named !== null || hasPackages(request)) throw error;
      const reason = describeError(error);
      this.#parts.log.warn('no template; a sandbox boots instead', { reason });
      return null;
    }
  }

  async #queued<T>(
    request: Pick<CreateRequest, 'queueTimeoutMs' | 'annotations'> & { readonly isResume?: boolean },
    spec: SandboxSpec,
    signal: AbortSignal,
    from: { readonly source: StartSource | null; readonly start: (signal: AbortSignal) => Promise<T> },
    handover?: Handover<T>,
  ): Promise<T> {
    const { source, start } = from;
    const queueTimeoutMs = request.queueTimeoutMs ?? DEFAULT_QUEUE_TIMEOUT_MS;
    const needed = this.#neededBy(spec, source, this.#sharersOf(request));
    const tenant = this.#gate.ownerOf(request.annotations ?? {});
    const { isResume } = request;
    const place = { isResume, tenant, ...needed, sizeMib: spec.memoryMib, queueTimeoutMs, signal, handover };
    const admission = this.#tracer.start('admission');
    // Called in the context of the start that freed the place, which may belong to another trace.
    const started = this.#tracer.bind(start);
    try {
      return await this.#parts.queue.run<T>(place, (both) => {
        admission.end();
        return started(both);
      });
    } catch (error) {
      admission.end(error);
      throw error;
    } finally {
      admission.end();
    }
  }

  async #startOne(
    spec: SandboxSpec,
    source: StartSource | null,
    environmentPath: string | undefined,
    sharers: string | null,
    signal: AbortSignal,
  ): Promise<Supervisor> {
    const supervisor = this.#parts.supervise(spec, source, environmentPath, sharers);
    await supervisor.start(signal);
    return supervisor;
  }

  /** Discards members that fail to bind, and tries the next. */
  async #claim(
    key: string,
    spec: SandboxSpec,
    sharers: string | null,
    signal: AbortSignal,
  ): Promise<Started | undefined> {
    for (;;) {
      const member = this.pools.claim(key, (started) => fits(started, sharers));
      if (member === undefined || (await this.#bind(member, spec, signal))) return member;
    }
  }

  async #bind({ supervisor }: Started, spec: SandboxSpec, signal: AbortSignal): Promise<boolean> {
    using limit = timeLimit(this.#parts.clock, BIND_MS_MAX, signal);
    try {
      await this.#tracer.span('bind', {}, () => supervisor.settings.bind(spec, limit.signal));
      return true;
    } catch (error) {
      await supervisor.stop();
      if (signal.aborted) throw cancelled(signal);
      if (isWithoutParts(error)) throw error;
      const reason = describeError(error);
      this.#parts.log.warn('a pool member did not answer and was ended', { reason });
      return false;
    }
  }

  async #startMember(template: OpenTemplate, signal: AbortSignal): Promise<Supervisor> {
    const { card = false, ...size } = template.spec;
    const network = card ? { mode: 'none' as const } : null;
    const spec = this.#parts.makeSpec({ ...size, warm: template.warm, network });
    const sharers = this.#gate.sharersOf(null);
    return await this.#startOne(spec, template.source, undefined, sharers, signal);
  }

  /** A clone that shares its RAM has little of its own at first; every other start counts with its size. */
  #neededBy(
    spec: Pick<SandboxSpec, 'memoryMib' | 'memoryMaxMib'>,
    source: StartSource | null,
    sharers: string | null,
  ): Pick<StartRequest<unknown>, 'memoryMib' | 'shared'> {
    const { sizes } = this.#parts;
    const { memoryMib } = spec;
    const maps = source !== null && 'mapMemory' in source && source.mapMemory !== undefined;
    if (!maps || sharers === null || sizes?.canShare(spec) !== true) return { memoryMib };
    return { memoryMib: sizes.expectedMib(memoryMib), shared: source.sharedNeed?.(sharers) };
  }

  #sharersOf({ annotations = {} }: CloneOwner): string | null {
    return this.#gate.sharersOf(annotations);
  }
}

/** Whether a pool member may become a sandbox of this sharing group. */
function fits({ supervisor }: Started, sharers: string | null): boolean {
  return supervisor.sharers === null || supervisor.sharers === sharers;
}

/** Packages are only on the disks of templates, so a boot would lack them. */
function hasPackages({ requirements = [] }: Pick<SandboxOptions, 'requirements'>): boolean {
  return requirements.length > 0;
}

function withoutTemplate(): SandboxError {
  return new SandboxError('spec_invalid', 'a named template, or packages, exclude a boot', {
    remedy: 'omit boot (--boot)',
  });
}

function ofSnapshot(what: string, field: string): SandboxError {
  return new SandboxError('spec_invalid', `a snapshot has its own ${what}`, {
    remedy: `omit ${field}, or omit the snapshot`,
  });
}

function cancelled({ reason }: AbortSignal): SandboxError {
  return new SandboxError('cancelled', 'starting the sandbox was canceled', { cause: reason });
}
