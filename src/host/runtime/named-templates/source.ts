/** Finds and builds what sandboxes start from: templates, by name or by their options, and images. */

import { READY_MADE } from '../../../artifacts/ready-made.ts';
import type { Config } from '../../../base/config.ts';
import { CodedError } from '../../../base/errors.ts';
import type { Home } from '../../../base/home.ts';
import type { Log } from '../../../base/log.ts';
import type { Progress } from '../../../base/progress.ts';
import type { VmmDriver } from '../../../machine/vmm/driver.ts';
import type { CreateRequest, PoolMembers } from '../../../sandbox/contract/control.ts';
import type { EnvironmentSource } from '../../../sandbox/contract/environment.ts';
import type { StartCommand } from '../../../sandbox/contract/schema/request.ts';
import type { SandboxOptions, TemplateSpec } from '../../../sandbox/contract/spec.ts';
import { checkStart } from '../../../sandbox/start/start-program.ts';
import { canBeCloned, type NamedTemplate, needsCard } from '../../../sandbox/start/template.ts';
import type { BuilderRuntime, Images, ImagesContext } from '../images.ts';
import type { Network } from '../network.ts';
import type { Template, Templates, TemplateWork } from '../templates.ts';
import { type BuildReadyMade, readyMadeTemplate } from './ready-made.ts';
import { checkNamedRequest, withTemplate } from './request.ts';
import { checkRequirements, hasDefaults, templateSpec, withoutTemplates } from './spec.ts';

export interface TemplateSourceParts {
  readonly options: {
    readonly config: Pick<Config, 'imageQuotaBytes'>;
    readonly progress: Progress;
    readonly log: Log;
    readonly signal: AbortSignal;
    readonly observes?: boolean;
    readonly buildReadyMade?: BuildReadyMade | undefined;
  };
  readonly home: Home;
  readonly driver: VmmDriver;
  readonly network: Pick<Network, 'open'>;
  readonly templates: Templates;
  /** Starts the VMs that build images. */
  readonly runtime: BuilderRuntime;
}

export class TemplateSource {
  readonly #parts: TemplateSourceParts;
  #images: Images | undefined;

  constructor(parts: TemplateSourceParts) {
    this.#parts = parts;
  }

  /**
   * What the template that a request names is made of, and the request with that.
   * @throws SandboxError `not_found`, `spec_invalid`: the request wants something else
   */
  async fromNamedTemplate(
    name: string,
    request: CreateRequest,
  ): Promise<{ readonly request: CreateRequest; readonly named: NamedTemplate }> {
    checkNamedRequest(request);
    const named = await this.#named(name);
    const requirements = checkRequirements(request.requirements ?? []);
    return { request: withTemplate(named, { ...request, requirements }), named };
  }

  /**
   * The template for a sandbox; null: it boots. The default template, that of an image, one with packages, and a named
   * one are built if they are missing.
   * @param named what the template that the request names is made of
   * @throws SandboxError, ImageError
   */
  async templateFor(
    options: SandboxOptions,
    image?: EnvironmentSource | undefined,
    named: TemplateSpec | null = null,
  ): Promise<Template | null> {
    const isWanted = named !== null || (options.requirements ?? []).length > 0;
    if (!canBeCloned(options) || !this.#parts.templates.supported) {
      if (isWanted) throw withoutTemplates(this.#parts.driver, options);
      return null;
    }
    const card = needsCard(options, this.#parts.driver.capabilities);
    const spec = named === null ? templateSpec({ ...options, card }, image) : { ...named, ...(card ? { card } : {}) };
    const isBuilt = hasDefaults(spec) || isWanted;
    if (!isBuilt && !(await this.#parts.templates.has(spec))) return null;
    return await this.#parts.templates.prepare(spec, image);
  }

  /**
   * Builds the template if it is missing. `card` is ignored if the VMM can plug a card into any clone.
   * @param start the program that runs in every clone
   * @param work reports what is built, and cancels it. Default: the process's
   * @throws SandboxError, ImageError
   */
  async prepareTemplate(
    members: PoolMembers,
    start?: StartCommand,
    work: TemplateWork = this.#parts.options,
  ): Promise<Template> {
    const { card = false, image: name, template } = members;
    const wanted = card && !this.#parts.driver.capabilities.hotplugNic;
    // Also for a template that exists: without a network, no clone of it can start.
    if (wanted) await this.#parts.network.open();
    if (template !== undefined) return await this.#prepareNamed(template, members, wanted, work);
    const image = name === undefined ? undefined : await this.resolveImage(name, work.signal);
    const program = start === undefined ? {} : { start: checkStart(start) };
    const spec = { ...templateSpec({ ...members, card: wanted }, image), ...program };
    return await this.#parts.templates.prepare(spec, image, work);
  }

  /**
   * Finds the image, or pulls it.
   * @param image as `image pull` takes it; a path is relative to this process's directory
   * @param mayLogIn whether this host logs in at a registry
   * @throws SandboxError `image_failed`
   */
  async resolveImage(
    image: string,
    signal: AbortSignal,
    mayLogIn: (host: string) => boolean = () => true,
  ): Promise<EnvironmentSource> {
    const { resolveEnvironment } = await import('../images.ts');
    const { log } = this.#parts.options;
    return await resolveEnvironment(await this.#openImages(), image, {
      signal,
      log,
      readsHost: this.#parts.options.observes !== true,
      mayLogIn,
    });
  }

  async #openImages(): Promise<Images> {
    // Loaded only here: most sandboxes have no image.
    const { openImages } = await import('../images.ts');
    // One object, so that equal pulls of this process are done once.
    this.#images ??= openImages(this.#imagesContext());
    return this.#images;
  }

  #imagesContext({ progress, signal }: TemplateWork = this.#parts.options): ImagesContext {
    const { config, log } = this.#parts.options;
    const quotaBytes = config.imageQuotaBytes;
    return { home: this.#parts.home, progress, signal, log, quotaBytes, runtime: async () => this.#parts.runtime };
  }

  /** A ready-made environment is built at its first use. @throws SandboxError, DockerfileError, OciError, ImageError */
  async #named(name: string, work?: TemplateWork): Promise<NamedTemplate> {
    const { names } = this.#parts.templates;
    const { buildReadyMade, log } = this.#parts.options;
    if (!READY_MADE.has(name) || buildReadyMade === undefined) return await names.get(name);
    return await readyMadeTemplate(name, {
      systemDigest: this.#parts.runtime.artifacts.rootImageDigest,
      names,
      keep: (...made) => this.#parts.templates.setReadyMade(...made),
      build: async () => {
        const { environmentSource, imageFailure } = await import('../images.ts');
        try {
          const built = await buildReadyMade(this.#imagesContext(work), await this.#openImages(), name);
          return environmentSource(built, name, log);
        } catch (error) {
          throw error instanceof CodedError ? imageFailure(name, error) : error;
        }
      },
    });
  }

  async #prepareNamed(name: string, members: PoolMembers, card: boolean, work: TemplateWork): Promise<Template> {
    const named = await this.#named(name, work);
    const requirements = checkRequirements(members.requirements ?? []);
    withTemplate(named, { ...members, requirements });
    return await this.#parts.templates.prepare({ ...named.spec, ...(card ? { card } : {}) }, named.image, work);
  }
}
