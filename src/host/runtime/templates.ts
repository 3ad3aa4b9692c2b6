/**
 * This machine's templates: found, built under a lock of their own, listed and removed.
 *
 *     spec ─► key ─► <cache>/template/<key> exists and is intact? ──► CloneSource
 *                          │ no, and it may be built: 30–60 s in software emulation
 *                          └──► sandbox/template-builder.ts
 */
import { rename, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { type Artifact, isCached, MANIFEST, prepareArtifact, type Recipe } from '../../artifacts/image/prepare.ts';
import { SharedWork } from '../../artifacts/oci/shared-work.ts';
import { errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { MIB } from '../../base/units.ts';
import { type EnvironmentSource, environmentDisks, shownImage } from '../../sandbox/contract/environment.ts';
import { SandboxError } from '../../sandbox/contract/errors.ts';
import type { CloneSource } from '../../sandbox/contract/parts.ts';
import type { ListedTemplate } from '../../sandbox/contract/schema/contents.ts';
import type { TemplateSpec } from '../../sandbox/contract/spec.ts';
import { ramMib, vmMemory } from '../../sandbox/memory/size.ts';
import { TEMPLATE_ENVIRONMENT, TEMPLATE_FILES, templateKey } from '../../sandbox/start/template.ts';
import { buildTemplate, type TemplateParts } from '../../sandbox/start/template-builder.ts';
import { linkOrCopy } from '../../sys/link-or-copy.ts';
import { cloneSparse } from '../../sys/sparse.ts';
import { copyDataInto, copyWithoutZeros } from '../../sys/sparse-threads.ts';
import { serveCannedModel } from './canned-model.ts';
import { type Details, detailsSchema, removeTemplate, TEMPLATE_KIND, withNamesLock } from './kept-templates.ts';
import { listTemplates } from './named-templates/listing.ts';
import type { TemplateNames } from './named-templates/names.ts';
import type { CloneRam, SharedCopy } from './ram/parts.ts';
import type { Artifacts, SetupContext } from './setup.ts';
import { inferenceSocket } from './workspace.ts';

export interface Template {
  readonly key: string;
  readonly spec: TemplateSpec;
  readonly warm: readonly string[];
  /** False if its image can't run scripts. */
  readonly hasPython: boolean;
  readonly source: CloneSource;
}

export type TemplateWork = Pick<SetupContext, 'progress' | 'signal'>;

/** The builder's parts, without those that this file adds. */
export type BuilderParts = Omit<TemplateParts, 'serveCannedModel' | 'keepMemory' | 'keepDisk' | 'moveDisk'>;

interface TemplatesParts extends BuilderParts {
  /** For clones that map their RAM. */
  readonly ram: Pick<CloneRam, 'copy'>;
  /** Identifies the index of Python packages, without its name. */
  packageIndex(): Promise<string>;
}

interface Opened {
  readonly template: Template;
  /** See `#identity`. */
  readonly identity: string;
  /** Digests of the files' contents. */
  readonly digests: string;
  /** Its RAM file for clones; `null`: they copy the cache's. */
  readonly shared: SharedCopy | null;
}

/** Number of unnamed templates that are kept when another is built. */
const OTHERS_KEPT = 8;
/** Space needed during the build, beyond RAM and disk. */
const SPACE_RESERVE_BYTES = 64 * MIB;

export class Templates {
  readonly #context: SetupContext;
  readonly #artifacts: Artifacts;
  readonly #parts: TemplatesParts;
  readonly names: TemplateNames;
  /** Templates verified in this process. */
  readonly #opened = new Map<string, Opened>();
  /** Concurrent requests build and open a template only once; it ends with the last of them. */
  readonly #preparing = new SharedWork<Template>();

  constructor(context: SetupContext, artifacts: Artifacts, parts: TemplatesParts, names: TemplateNames) {
    this.names = names;
    this.#context = context;
    this.#artifacts = artifacts;
    this.#parts = parts;
  }

  /** True if the VMM can save and restore a guest. */
  get supported(): boolean {
    return this.#parts.driver.machineOf !== undefined;
  }

  /** True if there is a template of exactly this spec. Its files are verified when it is opened. */
  async has(spec: TemplateSpec): Promise<boolean> {
    const key = await this.#key(spec);
    return isCached(this.#context.cacheDir, { kind: TEMPLATE_KIND, key });
  }

  /**
   * Builds the template if it is missing, and opens it, verified.
   * @param image source of the spec's environment, if there is one
   * @param work reports a build and cancels it. Default: the process's
   * @throws SandboxError, ImageError; the reason of an abort; nothing incomplete is left
   */
  async prepare(
    spec: TemplateSpec,
    image?: EnvironmentSource,
    { progress, signal }: TemplateWork = this.#context,
  ): Promise<Template> {
    const key = await this.#key(spec);
    const known = this.#opened.get(key);
    // Verifying takes as long as two starts, so unchanged files are not verified again.
    if (known !== undefined && known.identity === (await this.#identity(key))) {
      return known.template;
    }
    return await this.#preparing.run(key, signal, (own) => {
      const context = { ...this.#context, progress, signal: own };
      return this.#prepare(context, { key, spec, image });
    });
  }

  async #prepare(
    context: SetupContext,
    { key, spec, image }: { key: string; spec: TemplateSpec; image: EnvironmentSource | undefined },
  ): Promise<Template> {
    const artifact = await prepareArtifact(context, await this.#recipe(key, spec, image));
    const identity = await this.#identity(key);
    const before = this.#opened.get(key);
    const opened = await this.#open(key, spec, artifact, before);
    this.#opened.set(key, { ...opened, identity });
    return opened.template;
  }

  /** @param before the previous one with this key */
  async #open(
    key: string,
    spec: TemplateSpec,
    artifact: Artifact<Details>,
    before: Opened | undefined,
  ): Promise<Omit<Opened, 'identity'>> {
    const digests = [...artifact.files.values()].map(({ sha256 }) => sha256).join(' ');
    if (before?.digests === digests) return before;
    // First, so that there is space for the next.
    await this.#dropStale(key);
    const source = sourceOf(artifact, spec);
    const shared = await this.#share(artifact);
    const mapMemory =
      shared === null
        ? {}
        : {
            mapMemory: (sharers: string) => shared.open(sharers),
            sharedNeed: (sharers: string) => shared.needOf(sharers),
          };
    const { warm, hasPython } = artifact.details;
    const template = { key, spec, warm, hasPython, source: { ...source, ...mapMemory } };
    return { template, digests, shared };
  }

  async #share({ dir, files }: Artifact<Details>): Promise<SharedCopy | null> {
    const { driver, ram } = this.#parts;
    if (driver.capabilities.mapsMemory !== true) return null;
    const path = join(dir, TEMPLATE_FILES.ram);
    return await ram.copy({ path, digest: files.get(TEMPLATE_FILES.ram)?.sha256 });
  }

  /** Forgets the template that was rebuilt, and those that the cache no longer has: clones need its files, too. */
  async #dropStale(rebuilt: string): Promise<void> {
    const { cacheDir } = this.#context;
    for (const [key, { shared }] of this.#opened) {
      if (key !== rebuilt && (await isCached(cacheDir, { kind: TEMPLATE_KIND, key }))) continue;
      this.#opened.delete(key);
      await shared?.drop();
    }
  }

  /** Changes whenever one of the files is written or replaced. */
  async #identity(key: string): Promise<string> {
    const parts = [...Object.values(TEMPLATE_FILES), MANIFEST].map(async (name) => {
      const path = join(this.#context.cacheDir, TEMPLATE_KIND, key, name);
      const found = await stat(path, { bigint: true }).catch((error: unknown) => {
        ignore(error, 'a missing file changes the identity');
        return null;
      });
      return found === null ? 'none' : `${found.dev}:${found.ino}:${found.size}:${found.ctimeNs}`;
    });
    return (await Promise.all(parts)).join(' ');
  }

  list(): Promise<readonly ListedTemplate[]> {
    return listTemplates(this.#context.cacheDir, this.names, (spec) => this.#key(spec));
  }

  /** Gives the template the name. @throws SandboxError `spec_invalid` */
  async setName(name: string, { spec, source }: Template): Promise<void> {
    await withNamesLock(this.#context, () => this.names.set(name, spec, source.linkEnvironment));
  }

  /** Stores the spec of a ready-made environment's template, and links its disk's file. */
  async setReadyMade(name: string, spec: TemplateSpec, path: string, recipe: string): Promise<void> {
    const link = (to: string): Promise<void> => linkOrCopy(path, to);
    await withNamesLock(this.#context, () => this.names.setReadyMade(name, spec, link, recipe));
  }

  /** Returns false if there is no such template. */
  remove(key: string): Promise<boolean> {
    return removeTemplate(this.#context, key);
  }

  /** Keys of the templates that have a name, with and without a network card. */
  async #pinned(): Promise<ReadonlySet<string>> {
    const specs = (await this.names.list()).map(({ spec }) => spec);
    const all = specs.flatMap((spec) => [spec, { ...spec, card: true }]);
    return new Set(await Promise.all(all.map((spec) => this.#key(spec))));
  }

  async #key(spec: TemplateSpec): Promise<string> {
    const { driver, env } = this.#parts;
    const packageIndex = spec.requirements === undefined ? '' : await this.#parts.packageIndex();
    const { kernelDigest, rootImageDigest } = this.#artifacts;
    const disks = environmentDisks(spec.environment);
    const machine = driver.machineOf?.({ cpus: spec.cpus, ...vmMemory(spec), ...disks }) ?? 'none';
    return templateKey({ spec, kernelDigest, rootImageDigest, machine, env, packageIndex });
  }

  async #recipe(key: string, spec: TemplateSpec, image: EnvironmentSource | undefined): Promise<Recipe<Details>> {
    return {
      kind: TEMPLATE_KIND,
      title:
        spec.requirements === undefined
          ? `Build the template that sandboxes${withImage(spec)} start from`
          : `Install ${shortList(spec.requirements)} for sandboxes${withImage(spec)} to start with`,
      key,
      files: Object.values(TEMPLATE_FILES),
      sparseFiles: [TEMPLATE_FILES.ram, TEMPLATE_FILES.disk],
      othersKept: OTHERS_KEPT,
      pinned: await this.#pinned(),
      spaceBytes: ramMib(spec) * MIB + SPACE_RESERVE_BYTES,
      details: detailsSchema,
      build: async ({ outDir, signal, report }) => {
        const paths = {
          ram: join(outDir, TEMPLATE_FILES.ram),
          state: join(outDir, TEMPLATE_FILES.state),
          disk: join(outDir, TEMPLATE_FILES.disk),
        };
        const environmentPath = join(outDir, TEMPLATE_ENVIRONMENT);
        // First: from here on the image may be removed.
        if (image !== undefined) await linkImage(image, environmentPath);
        const built = await buildTemplate(
          { ...this.#parts, ...FILE_PARTS },
          { spec, environmentPath, paths, signal, report },
        );
        const { kernelDigest, rootImageDigest } = this.#artifacts;
        return {
          spec: mutable(spec),
          warm: [...built.warm],
          hasPython: built.hasPython,
          machine: built.snapshot.machine,
          stateSha256: built.snapshot.stateSha256,
          kernelDigest,
          rootImageDigest,
          madeAtMs: Date.now(),
          modules: built.modules.map(({ name, durationMs }) => ({ name, durationMs })),
        };
      },
    };
  }
}

/** @throws SandboxError `image_failed` */
async function linkImage({ environment, path }: EnvironmentSource, to: string): Promise<void> {
  try {
    await linkOrCopy(path, to);
  } catch (cause) {
    const what = `the image ${environment.image} can't be used`;
    const isGone = errorCode(cause) === 'ENOENT';
    const why = isGone ? { cause: 'it was removed meanwhile', remedy: 'try again' } : { cause };
    throw new SandboxError('image_failed', what, why);
  }
}

function withImage({ environment }: TemplateSpec): string {
  return environment === undefined ? '' : ` of ${shownImage(environment.image)}`;
}

/** Display text: the first few names. */
function shortList(requirements: readonly string[]): string {
  const names = requirements.slice(0, NAMES_SHOWN).map((one) => one.split(/[^a-z0-9-]/, 1)[0]);
  const more = requirements.length - names.length;
  return `${names.join(', ')}${more > 0 ? ` and ${more} more` : ''}`;
}

const NAMES_SHOWN = 4;

/** A mutable copy for the manifest. */
function mutable({ requirements, ...spec }: TemplateSpec): Details['spec'] {
  const packages = requirements === undefined ? {} : { requirements: [...requirements] };
  return { ...spec, warm: [...spec.warm], ...packages };
}

const FILE_PARTS: Pick<TemplateParts, 'serveCannedModel' | 'keepMemory' | 'keepDisk' | 'moveDisk'> = {
  serveCannedModel: (channelPath) => serveCannedModel(inferenceSocket(channelPath)),
  keepMemory: copyWithoutZeros,
  keepDisk: copyWithoutZeros,
  moveDisk: rename,
};

function sourceOf(artifact: Artifact<Details>, { environment }: TemplateSpec): CloneSource {
  const path = (name: string): string => join(artifact.dir, name);
  return {
    snapshot: {
      statePath: path(TEMPLATE_FILES.state),
      stateSha256: artifact.details.stateSha256,
      machine: artifact.details.machine,
    },
    copyMemory: (target) => copyDataInto(path(TEMPLATE_FILES.ram), target),
    // A megabyte: not worth waiting for the threads, which are copying the RAM.
    copyDisk: (target) => cloneSparse(path(TEMPLATE_FILES.disk), target),
    ...(environment === undefined
      ? {}
      : { linkEnvironment: (target: string) => linkOrCopy(path(TEMPLATE_ENVIRONMENT), target) }),
  };
}
