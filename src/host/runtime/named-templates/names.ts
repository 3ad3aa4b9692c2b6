/**
 * This machine's named templates and their specs. Their files are in the cache, by key, and are rebuilt when they are
 * missing, or when the kernel, the image or the VMM changes.
 *
 *     <home>/templates/NAME.json               replaced atomically, by a rename
 *                     /environments/<hex>      hard links to image files, so that removing an image breaks nothing
 */
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { DIGEST } from '../../../artifacts/oci/reference.ts';
import { READY_MADE } from '../../../artifacts/ready-made.ts';
import { systemClock } from '../../../base/clock.ts';
import { errorCode, ifThere } from '../../../base/errors.ts';
import { newSandboxId } from '../../../base/ids.ts';
import { awaitOr, ignore } from '../../../base/ignore.ts';
import { namesIn } from '../../../base/names-in.ts';
import { nearNames } from '../../../base/text/near-names.ts';
import type { SandboxEnvironment } from '../../../sandbox/contract/environment.ts';
import { SandboxError } from '../../../sandbox/contract/errors.ts';
import { BUILT_TEMPLATE_NAME, TEMPLATE_NAME } from '../../../sandbox/contract/limits.ts';
import type { TemplateSpec } from '../../../sandbox/contract/spec.ts';
import { DEFAULT_TEMPLATE, type NamedTemplate } from '../../../sandbox/start/template.ts';
import { specSchema } from '../kept-templates.ts';

export interface StoredTemplate extends NamedTemplate {
  /** Milliseconds since 1970; 0 for `agent`. */
  readonly madeAtMs: number;
  /** Recipe of a ready-made environment (`ready-made.ts`). */
  readonly recipe?: string;
}

/** The template of a sandbox without options; always exists. */
export const AGENT = 'agent';
/** Names that users can't set. */
const RESERVED: ReadonlySet<string> = new Set([AGENT, ...READY_MADE.keys()]);

const FORMAT = 1;
/** More than the longest list of requirements takes. */
const FILE_BYTES_MAX = 16 * 1024 * 1024;
const fileSchema = z.object({
  format: z.literal(FORMAT),
  spec: specSchema,
  madeAtMs: z.number(),
  recipe: z.string().exactOptional(),
});

export class TemplateNames {
  readonly #dir: string;

  /** @param homeDir the home */
  constructor(homeDir: string) {
    this.#dir = join(homeDir, 'templates');
  }

  /** Sorted by name, `agent` first. Omits damaged ones, which `get` reports. */
  async list(): Promise<readonly StoredTemplate[]> {
    const found: StoredTemplate[] = [];
    for (const name of await this.#names()) {
      try {
        const one = await this.#read(name);
        if (one !== undefined) found.push(one);
      } catch (error) {
        ignore(error, 'reported when the template is used');
      }
    }
    return [AGENT_TEMPLATE, ...found];
  }

  /** @throws SandboxError `spec_invalid`, `not_found`; `template_failed` if its file is damaged */
  async get(name: string): Promise<StoredTemplate> {
    if (name === AGENT) return AGENT_TEMPLATE;
    checkName(name);
    const found = await this.#read(name);
    if (found === undefined) {
      throw unknown(name, [AGENT, ...READY_MADE.keys(), ...(await this.#names())]);
    }
    return found;
  }

  /**
   * Sets the name, atomically replacing an earlier one. The caller has the lock of names.
   * @param linkEnvironment links the file of the spec's environment
   * @throws SandboxError `spec_invalid`
   */
  async set(name: string, spec: TemplateSpec, linkEnvironment?: (path: string) => Promise<void>): Promise<void> {
    checkNewName(name);
    await this.#write(name, spec, linkEnvironment);
  }

  /** The template of a ready-made environment, if it was made by this recipe. */
  async readyMade(name: string, recipe: string): Promise<StoredTemplate | undefined> {
    return await awaitOr(undefined, 'a damaged one is made again', async () => {
      const stored = await this.#read(name);
      return stored?.recipe === recipe ? stored : undefined;
    });
  }

  /** Like `set`, for a ready-made environment. */
  async setReadyMade(
    name: string,
    spec: TemplateSpec,
    linkEnvironment: (path: string) => Promise<void>,
    recipe: string,
  ): Promise<void> {
    await this.#write(name, spec, linkEnvironment, recipe);
  }

  async #write(
    name: string,
    { card: _card, ...spec }: TemplateSpec,
    linkEnvironment?: (path: string) => Promise<void>,
    recipe?: string,
  ): Promise<void> {
    const madeAtMs = Math.round(systemClock.wall());
    const file = { format: FORMAT, spec, madeAtMs, ...(recipe === undefined ? {} : { recipe }) };
    await mkdir(this.#environments, { recursive: true });
    if (spec.environment !== undefined) {
      await this.#keepEnvironment(spec.environment, linkEnvironment);
    }
    const next = join(this.#dir, `.${newSandboxId()}`);
    try {
      await writeFile(next, `${JSON.stringify(file, null, 2)}\n`, { mode: 0o600 });
      await rename(next, this.#path(name));
    } finally {
      await rm(next, { force: true });
    }
    await this.#dropUnused();
  }

  /** Also removes a damaged one. The caller has the lock of names. @throws SandboxError `spec_invalid`, `not_found` */
  async remove(name: string): Promise<void> {
    checkRemovable(name);
    try {
      await rm(this.#path(name));
    } catch (error) {
      if (errorCode(error) !== 'ENOENT') throw error;
      throw unknown(name, await this.#names());
    }
    await this.#dropUnused();
  }

  /** True if the name has a file, even a damaged one. */
  async has(name: string): Promise<boolean> {
    return name === AGENT || (await this.#names()).includes(name);
  }

  /** Replaces the file of the same name, which another template may use, once the new one is complete. */
  async #keepEnvironment(
    environment: SandboxEnvironment,
    link: (path: string) => Promise<void> = async () => undefined,
  ): Promise<void> {
    const next = join(this.#environments, `.${newSandboxId()}`);
    try {
      await link(next);
      await rename(next, this.#environmentPath(environment));
    } finally {
      // Needed also after a rename, which does nothing if both names are the same file (rename(2)).
      await rm(next, { force: true });
    }
  }

  /** Drops nothing while a name can't be read: it may use any of the files. */
  async #dropUnused(): Promise<void> {
    const used: (string | undefined)[] = [];
    try {
      for (const name of await this.#names()) used.push((await this.#read(name))?.image?.path);
    } catch (error) {
      ignore(error, 'reported when the template is used');
      return;
    }
    for (const file of await namesIn(this.#environments)) {
      const path = join(this.#environments, file);
      if (!used.includes(path)) await rm(path, { force: true });
    }
  }

  async #read(name: string): Promise<StoredTemplate | undefined> {
    const text = await ifThere(readFile(this.#path(name), 'utf8'));
    if (text === undefined) return undefined;
    try {
      if (text.length > FILE_BYTES_MAX) throw new Error('it is too large');
      const { spec, madeAtMs, recipe } = fileSchema.parse(JSON.parse(text));
      const stored = { name, spec, madeAtMs, ...(recipe === undefined ? {} : { recipe }) };
      const { environment } = spec;
      if (environment === undefined) return stored;
      if (!DIGEST.test(environment.digest)) throw new Error('the digest of its image is invalid');
      const path = this.#environmentPath(environment);
      return { ...stored, image: { environment, path } };
    } catch (cause) {
      throw new SandboxError('template_failed', `the definition of template ${name} is damaged`, {
        cause,
        remedy: `build it again (neurovisor template create -t ${name} …) or remove it (neurovisor template rm ${name})`,
      });
    }
  }

  async #names(): Promise<readonly string[]> {
    return (await namesIn(this.#dir))
      .filter((file) => file.endsWith(SUFFIX))
      .map((file) => file.slice(0, -SUFFIX.length))
      .filter((name) => TEMPLATE_NAME.test(name))
      .sort();
  }

  get #environments(): string {
    return join(this.#dir, 'environments');
  }

  #environmentPath({ digest }: SandboxEnvironment): string {
    return join(this.#environments, digest.replace(/^sha256:/, ''));
  }

  #path(name: string): string {
    return join(this.#dir, `${name}${SUFFIX}`);
  }
}

const SUFFIX = '.json';
const AGENT_TEMPLATE: StoredTemplate = { name: AGENT, spec: DEFAULT_TEMPLATE, madeAtMs: 0 };

/** For a name to be set or removed. @throws SandboxError `spec_invalid` */
export function checkNewName(name: string): void {
  checkName(name);
  if (!RESERVED.has(name)) return;
  throw new SandboxError('spec_invalid', `the template name "${name}" is reserved`, { remedy: 'choose another name' });
}

/** @throws SandboxError `spec_invalid` */
export function checkRemovable(name: string): void {
  if (!READY_MADE.has(name)) checkNewName(name);
}

function checkName(name: string): void {
  if (TEMPLATE_NAME.test(name)) return;
  throw new SandboxError('spec_invalid', `invalid template name "${name.slice(0, 80)}"`, {
    remedy: 'use 1 to 63 lower-case letters, digits, dots, hyphens and underscores; the first is a letter or a digit',
  });
}

function unknown(name: string, names: readonly string[]): SandboxError {
  // Don't disclose other tenants' builds.
  const shown = names.filter((one) => !BUILT_TEMPLATE_NAME.test(one));
  const near = nearNames(name, shown);
  const guess = near.length === 0 ? '' : `did you mean ${near.join(' or ')}? `;
  return new SandboxError('not_found', `there is no template "${name}"`, {
    remedy: `${guess}list templates with: neurovisor template ls`,
  });
}
