/**
 * The templates of E2B's clients: requested, given files, built one after the other, named and tagged.
 *
 *     request ─► id, build ─► uploads ─► start ─► waiting ─► building ─► ready: named, tagged, stored
 *                                                              └──────► error: its step and log, in memory
 *
 * An unfinished build does not outlive the daemon.
 */
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { describeError } from '../../../base/errors.ts';
import { FairQueue } from '../../../base/fairness/fair-queue.ts';
import { newSandboxId } from '../../../base/ids.ts';
import { MIB } from '../../../base/units.ts';
import type { ControlPlane } from '../../../sandbox/contract/control.ts';
import { BusyError } from '../../../sandbox/contract/errors.ts';
import type { Callers } from '../../tenants/callers.ts';
import { checkCreate, loginsOf } from '../../tenants/ceiling.ts';
import { BuildFailure, E2bError, errorReply } from '../errors.ts';
import { E2B_LIMITS } from '../limits.ts';
import type { BuiltTemplate, E2bParts, TemplateBuild, TemplateParts, TemplateSize, TemplateSource } from '../parts.ts';
import { BuildLog, type LogEntry } from './build-log.ts';
import { DEFAULT_TAG, localNameOf, parseName, parseNewName, parseTag, readName } from './names.ts';
import type { BuildBody, NewTemplateBody } from './schema.ts';
import { readBase, readStart, readSteps } from './steps.ts';
import { type StoredBuild, type StoredTemplate, TemplateStore } from './store.ts';
import { UntaggedBuilds } from './untagged.ts';
import { FILES_HASH, Uploads, type UploadUrls } from './uploads.ts';

export type BuildStatus = 'waiting' | 'building' | 'ready' | 'error';

interface Build {
  readonly id: string;
  readonly templateId: string;
  readonly name: string;
  readonly tags: readonly string[];
  readonly size: Partial<TemplateSize>;
  readonly createdAtMs: number;
  readonly stop: AbortController;
  isStarted: boolean;
  status: BuildStatus;
  log: BuildLog;
  reason: BuildReason | null;
}

export interface BuildReason {
  readonly message: string;
  readonly step: string | null;
  readonly entries: readonly LogEntry[];
}

export interface BuildView {
  readonly templateId: string;
  readonly buildId: string;
  readonly status: BuildStatus;
  readonly entries: readonly LogEntry[];
  readonly reason: BuildReason | null;
}

/**
 * Runs one build at a time. Tenants take turns, so a tenant with many builds delays another's next one by one build.
 */
export class BuildTurns {
  readonly #waiting = new FairQueue<() => Promise<void>>();
  #isRunning = false;

  /** Rejects like `work`, which does not end the turns of others. A tenant's own builds keep their order. */
  take(tenant: string, work: () => Promise<void>): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#waiting.add(tenant, async () => await work().then(resolve, reject));
    if (!this.#isRunning) void this.#run();
    return promise;
  }

  async #run(): Promise<void> {
    this.#isRunning = true;
    for (let next = this.#waiting.take(); next !== undefined; next = this.#waiting.take()) {
      await next();
    }
    this.#isRunning = false;
  }
}

interface Parts extends Pick<E2bParts, 'clock' | 'log'> {
  readonly callers: Pick<Callers, 'askerOf'>;
  /** The tenant's view. */
  readonly control: Pick<ControlPlane, 'list'>;
  readonly templates: TemplateParts;
  readonly urls: UploadUrls;
  readonly turns: BuildTurns;
}

const BUILD_TOO_LONG = `the build took longer than ${E2B_LIMITS.buildMsMax / 3_600_000} hours`;

/** Stands for a tenant's name, which never has a dot, in files and directories. */
const OPERATOR = '.operator';

export class Templates implements TemplateSource, AsyncDisposable {
  readonly #tenant: string | null;
  readonly uploads: Uploads;
  readonly #parts: Parts;
  readonly #store: TemplateStore;
  readonly #untagged: UntaggedBuilds;
  /** By id, oldest first. */
  readonly #builds = new Map<string, Build>();
  readonly #closed = new AbortController();
  #last: Promise<void> = Promise.resolve();

  private constructor(parts: Parts, tenant: string | null, store: TemplateStore, uploads: Uploads) {
    this.#tenant = tenant;
    this.#parts = parts;
    this.#store = store;
    this.uploads = uploads;
    this.#untagged = new UntaggedBuilds(store, parts, async (id) => await this.#removeFiles(id));
  }

  /** @param tenant the owner; `null` for the operator */
  static async open(parts: Parts, tenant: string | null): Promise<Templates> {
    const { stateDir, uploadsDir } = parts.templates;
    const own = tenant ?? OPERATOR;
    const store = await TemplateStore.open(join(stateDir, `${own}.json`), parts.log);
    const room = tenant === null ? undefined : parts.templates.storage?.uploadRoomOf(tenant);
    const uploads = await Uploads.open(join(uploadsDir, own), parts.clock, E2B_LIMITS, room);
    return new Templates(parts, tenant, store, uploads);
  }

  /** Bytes of the finished builds. */
  get bytes(): number {
    return this.#store.bytes;
  }

  /** Oldest first. */
  get all(): readonly StoredTemplate[] {
    return this.#store.all;
  }

  /** @throws E2bError 400, 403, 409; BusyError; SandboxError `forbidden` */
  request(body: NewTemplateBody): { templateId: string; build: string; name: string; tags: string[] } {
    const { name, tag } = parseNewName(body.name ?? body.alias ?? '');
    const given = [...(tag === null ? [] : [tag]), ...(body.tags ?? []).map(parseTag)];
    const tags = given.length === 0 ? [DEFAULT_TAG] : [...new Set(given)];
    const size = sizeOf(body);
    const asker = this.#parts.callers.askerOf(this.#tenant);
    if (asker !== null) checkCreate(size, asker);
    this.#forget();
    const waiting = [...this.#builds.values()].filter(({ status }) => status === 'waiting');
    if (waiting.length >= E2B_LIMITS.buildsWaitingMax) throw new BusyError('too many builds', 5000);
    const known = this.#store.find(name)?.id ?? waiting.find((one) => one.name === name)?.templateId;
    if (known === undefined && this.#store.all.length >= E2B_LIMITS.templatesMax) {
      throw new E2bError(409, `there are ${E2B_LIMITS.templatesMax} templates`, { remedy: 'remove some first' });
    }
    const id = randomUUID();
    const { wall } = this.#parts.clock;
    this.#builds.set(id, {
      id,
      templateId: known ?? newSandboxId(),
      name,
      tags,
      size,
      createdAtMs: wall(),
      stop: new AbortController(),
      isStarted: false,
      status: 'waiting',
      log: new BuildLog(wall, []),
      reason: null,
    });
    return { templateId: this.#builds.get(id)?.templateId ?? '', build: id, name, tags };
  }

  /** True if a template exists, or a build that becomes one. */
  #knows(templateId: string): boolean {
    if (this.#store.all.some(({ id }) => id === templateId)) return true;
    return [...this.#builds.values()].some((one) => one.templateId === templateId);
  }

  /** Whether an archive exists, and a token for its upload. @throws E2bError 400, 404 */
  async upload(templateId: string, hash: string): Promise<{ readonly isPresent: boolean; readonly token: string }> {
    if (!this.#knows(templateId)) throw missing(templateId);
    if (!FILES_HASH.test(hash)) throw new E2bError(400, 'the hash is not a SHA-256 in hex');
    const isPresent = await this.uploads.has(hash);
    return { isPresent, token: this.#parts.urls.allow(this.uploads, hash) };
  }

  /** @throws E2bError 400, 404, 409; SandboxError `forbidden` */
  async start(templateId: string, buildId: string, body: BuildBody): Promise<void> {
    const build = this.#find(templateId, buildId);
    if (build.isStarted) throw new E2bError(409, `the build ${buildId} has been started already`);
    const from = readBase(body, (name) => this.localName(name));
    const asker = this.#parts.callers.askerOf(this.#tenant);
    if (asker !== null) checkCreate({ [from.kind]: from.name }, asker);
    const own = readStart(body);
    build.isStarted = true;
    try {
      const steps = await readSteps(
        body.steps ?? [],
        async (step, hash) => await this.uploads.keepFor(buildId, step, hash),
      );
      const start = own ?? this.#startOf(body.fromTemplate ?? '');
      build.log = new BuildLog(this.#parts.clock.wall, steps);
      const mayLogIn = loginsOf(asker);
      const isFresh = body.force === true;
      this.#enqueue(build, { name: localNameOf(buildId), from, steps, start, isFresh, mayLogIn, size: build.size });
    } catch (error) {
      build.isStarted = false;
      await this.uploads.release(buildId);
      throw error;
    }
  }

  /** @throws E2bError 404 */
  status(templateId: string, buildId: string, offset: number, limit: number): BuildView {
    const stored = this.#store.find(templateId);
    const isStored = stored?.builds.some(({ id }) => id === buildId) === true;
    if (!this.#builds.has(buildId) && stored !== undefined && isStored) {
      // Built by an earlier daemon.
      return { templateId: stored.id, buildId, status: 'ready', entries: [], reason: null };
    }
    const build = this.#find(templateId, buildId);
    const most = Math.min(limit, E2B_LIMITS.logAnswerMax);
    const entries = build.log.read(offset, most);
    const { status, reason } = build;
    return { templateId: build.templateId, buildId, status, entries, reason };
  }

  /** By id or name, with or without a tag. */
  find(text: string): StoredTemplate | undefined {
    const read = readName(text);
    return read === null ? undefined : this.#store.find(read.name);
  }

  /** @throws E2bError 404 for a build that is not finished */
  localName(text: string): string | undefined {
    const build = this.#buildOf(text);
    if (build !== undefined) return localNameOf(build.id);
    const read = readName(text);
    const running = this.#builds.get(read?.tag ?? '');
    const isWaiting = running?.status === 'waiting' || running?.status === 'building';
    if (read === null || !isWaiting || ![running.name, running.templateId].includes(read.name)) return undefined;
    // E2B's words, which its clients take for "not yet".
    throw new E2bError(404, `tag '${running.id}' does not exist for template '${running.name}'`);
  }

  /** True if any template has the name, even one that no client of E2B has built. */
  async exists(text: string): Promise<{ templateId: string; isPublic: boolean } | null> {
    const found = this.find(text);
    if (found !== undefined) return { templateId: found.id, isPublic: found.isPublic };
    const name = readName(text)?.name;
    if (name === undefined || !(await this.#parts.templates.builds.has(name))) return null;
    return { templateId: name, isPublic: false };
  }

  /** @param target `NAME:TAG` or `NAME:BUILD_ID`. @throws E2bError 400, 404 */
  async tag(target: string, tags: readonly string[]): Promise<string> {
    parseName(target);
    const build = this.#buildOf(target);
    const template = this.find(target);
    if (build === undefined || template === undefined) throw missing(target);
    await this.#retag(template, tags.map(parseTag), build.id);
    return build.id;
  }

  /** @throws E2bError 400, 404 */
  async untag(name: string, tags: readonly string[]): Promise<void> {
    const template = this.find(name);
    if (template === undefined) throw missing(name);
    const unknown = tags.find((tag) => !template.tags.some((one) => one.tag === tag));
    if (unknown !== undefined) throw missing(`${template.name}:${unknown}`);
    await this.#keep({ ...template, tags: template.tags.filter(({ tag }) => !tags.includes(tag)) });
  }

  /** @throws E2bError 404 */
  async update(text: string, isPublic: boolean | null): Promise<StoredTemplate> {
    const template = this.find(text);
    if (template === undefined) throw missing(text);
    const next = { ...template, isPublic: isPublic ?? template.isPublic };
    await this.#store.put({ ...next, updatedAtMs: this.#parts.clock.wall() });
    return next;
  }

  async remove(text: string): Promise<boolean> {
    const template = this.find(text);
    for (const build of this.#builds.values()) {
      if (build.templateId !== (template?.id ?? text)) continue;
      build.stop.abort(new BuildFailure(null, 'the template was removed'));
      if (build.status === 'ready' || !build.isStarted) this.#builds.delete(build.id);
    }
    if (template === undefined) return false;
    await this.#store.remove(template.id);
    for (const { id } of template.builds) await this.#removeFiles(id);
    return true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed.abort(new BuildFailure(null, 'the daemon stops'));
    await this.#last;
    await this.#untagged[Symbol.asyncDispose]();
  }

  /** @throws E2bError 404 */
  #find(templateId: string, buildId: string): Build {
    const build = this.#builds.get(buildId);
    if (build?.templateId === templateId) return build;
    throw new E2bError(404, `template ${templateId.slice(0, 80)} has no build ${buildId}`, {
      remedy: 'request a new build: unfinished ones end with the daemon',
    });
  }

  /** The build that the text means, which counts as used. A tag may be a build's id. */
  #buildOf(text: string): StoredBuild | undefined {
    const read = readName(text);
    const template = read === null ? undefined : this.#store.find(read.name);
    const tag = read?.tag ?? DEFAULT_TAG;
    const id = template?.tags.find((one) => one.tag === tag)?.buildId ?? tag;
    const build = template?.builds.find((one) => one.id === id);
    if (build !== undefined) this.#untagged.use(build.id);
    return build;
  }

  #startOf(template: string): StoredBuild['start'] {
    return this.#buildOf(template)?.start ?? null;
  }

  #enqueue(build: Build, wanted: TemplateBuild): void {
    this.#last = this.#parts.turns.take(this.#tenant ?? OPERATOR, () => this.#run(build, wanted));
  }

  /** Never rejects. */
  async #run(build: Build, wanted: TemplateBuild): Promise<void> {
    const { log } = build;
    const { builds, admit, storage } = this.#parts.templates;
    let release = (): void => undefined;
    const signal = AbortSignal.any([build.stop.signal, this.#closed.signal]);
    // Other tenants wait for the turn.
    const stopTimer = this.#parts.clock.after(E2B_LIMITS.buildMsMax, () =>
      build.stop.abort(new BuildFailure(null, BUILD_TOO_LONG)),
    );
    try {
      signal.throwIfAborted();
      const memoryMib = builds.memoryMibOf(build.size);
      if (this.#tenant !== null) await storage?.prepare(this.#tenant, memoryMib * MIB);
      release = admit?.(this.#tenant, memoryMib) ?? release;
      build.status = 'building';
      const built = await builds.build(wanted, (event) => log.event(event), signal);
      log.flush();
      signal.throwIfAborted();
      await this.#keepBuild(build, wanted, built);
      log.add('info', 'Build finished');
      build.status = 'ready';
    } catch (error) {
      log.flush();
      const why = signal.aborted ? signal.reason : error;
      const message = this.#words(why);
      const step = why instanceof BuildFailure && why.step !== null ? `${why.step}` : null;
      const entries = log.last(E2B_LIMITS.logReasonMax);
      log.add('error', message, step);
      build.reason = { message, step, entries };
      build.status = 'error';
      await this.#removeFiles(build.id);
    } finally {
      stopTimer();
      release();
      await this.#release(build.id);
    }
  }

  /** Remaining files are removed with the next build's uploads. Never rejects. */
  async #release(buildId: string): Promise<void> {
    try {
      await this.uploads.release(buildId);
    } catch (error) {
      const reason = describeError(error);
      this.#parts.log.warn('uploads of a build could not be removed', { build: buildId, reason });
    }
  }

  #words(error: unknown): string {
    if (error instanceof BuildFailure) return describeError(error);
    const known = errorReply(error);
    if (known !== null) return known.body.message;
    this.#parts.log.error('E2B template build', { error: describeError(error) });
    return 'internal error; see the log of the daemon';
  }

  async #keepBuild(build: Build, { start }: TemplateBuild, built: BuiltTemplate): Promise<void> {
    const { id, templateId, name, createdAtMs } = build;
    const now = this.#parts.clock.wall();
    const before = this.#store.find(name);
    const template: StoredTemplate = before ?? {
      id: templateId,
      name,
      isPublic: false,
      createdAtMs,
      updatedAtMs: now,
      builds: [],
      tags: [],
    };
    const { files, ...size } = built;
    const done = { id, createdAtMs, finishedAtMs: now, size, start, files };
    await this.#retag({ ...template, builds: [...template.builds, done] }, build.tags, id);
  }

  async #retag(template: StoredTemplate, tags: readonly string[], buildId: string): Promise<void> {
    const now = this.#parts.clock.wall();
    const kept = template.tags.filter(({ tag }) => !tags.includes(tag));
    const added = [...new Set(tags)].map((tag) => ({ tag, buildId, createdAtMs: now }));
    if (kept.length + added.length > E2B_LIMITS.tagsMax) {
      throw new E2bError(400, `a template has at most ${E2B_LIMITS.tagsMax} tags`);
    }
    await this.#keep({ ...template, tags: [...kept, ...added], updatedAtMs: now });
  }

  /** Builds that lose their last tag stay for a while: clients may have looked them up. */
  async #keep(template: StoredTemplate): Promise<void> {
    const before = this.#store.find(template.id)?.tags ?? [];
    await this.#store.put(template);
    for (const { buildId } of before) this.#untagged.use(buildId);
    await this.#untagged.sweep();
  }

  async #removeFiles(buildId: string): Promise<void> {
    try {
      await this.#parts.templates.builds.remove(localNameOf(buildId));
    } catch (error) {
      this.#parts.log.warn(`could not remove the template ${localNameOf(buildId)}`, { error: describeError(error) });
    }
  }

  /** Forgets builds not started in time, and the oldest finished ones. */
  #forget(): void {
    const tooOldMs = this.#parts.clock.wall() - E2B_LIMITS.unstartedMsMax;
    for (const { id, isStarted, createdAtMs } of this.#builds.values()) {
      if (!isStarted && createdAtMs < tooOldMs) this.#builds.delete(id);
    }
    for (const { id, status } of this.#builds.values()) {
      if (this.#builds.size < E2B_LIMITS.buildsKeptMax) break;
      if (status === 'ready' || status === 'error') this.#builds.delete(id);
    }
  }
}

function sizeOf({ cpuCount, memoryMB, minFreeDiskMb }: NewTemplateBody): Partial<TemplateSize> {
  return {
    ...(cpuCount == null ? {} : { cpus: cpuCount }),
    ...(memoryMB == null ? {} : { memoryMib: memoryMB }),
    ...(minFreeDiskMb == null ? {} : { diskMib: minFreeDiskMb }),
  };
}

const missing = (text: string): E2bError => new E2bError(404, `there is no template "${text.slice(0, 80)}"`);
