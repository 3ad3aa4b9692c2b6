/**
 * The templates that clients have built, of one tenant, in one file that is replaced by a rename. A template is a
 * name with finished builds, and tags that point to them; the files of a build are a template of ours.
 */
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { z } from 'zod';
import { describeError, errorCode } from '../../base/errors.ts';
import { newSandboxId } from '../../base/ids.ts';
import type { Log } from '../../base/log.ts';

const FORMAT = 1;
const build = z.object({
  id: z.uuid(),
  createdAtMs: z.number(),
  finishedAtMs: z.number(),
  size: z.object({ cpus: z.number(), memoryMib: z.number(), diskMib: z.number() }),
  /** A template that is made from this one has the same program. */
  start: z.object({ command: z.string().nullable(), ready: z.string().nullable() }).nullable(),
});
const template = z.object({
  id: z.string(),
  name: z.string(),
  isPublic: z.boolean(),
  createdAtMs: z.number(),
  updatedAtMs: z.number(),
  /** Oldest first. Each has a tag. */
  builds: z.array(build),
  tags: z.array(z.object({ tag: z.string(), buildId: z.uuid(), createdAtMs: z.number() })),
});
const file = z.object({ format: z.literal(FORMAT), templates: z.array(template) });

export type StoredBuild = Readonly<z.infer<typeof build>>;
export type StoredTemplate = Readonly<z.infer<typeof template>>;

export class TemplateStore {
  readonly #path: string;
  #templates: readonly StoredTemplate[];
  #writing: Promise<void> = Promise.resolve();

  private constructor(path: string, templates: readonly StoredTemplate[]) {
    this.#path = path;
    this.#templates = templates;
  }

  /** A damaged file is put aside, and the log says where. */
  static async open(path: string, log: Log): Promise<TemplateStore> {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    try {
      const { templates } = file.parse(JSON.parse(await readFile(path, 'utf8')));
      return new TemplateStore(path, templates);
    } catch (error) {
      if (errorCode(error) === 'ENOENT') return new TemplateStore(path, []);
      const aside = `${path}.damaged`;
      await rename(path, aside);
      log.error(`the names of E2B templates are damaged; they are now in ${aside}`, {
        error: describeError(error).slice(0, 500),
      });
      return new TemplateStore(path, []);
    }
  }

  /** In the order of their creation. */
  get all(): readonly StoredTemplate[] {
    return this.#templates;
  }

  /** By id or name. */
  find(idOrName: string): StoredTemplate | undefined {
    return this.#templates.find(({ id, name }) => id === idOrName || name === idOrName);
  }

  /** Adds it, or replaces the one with its id. Resolves when it is on disk. */
  async put(next: StoredTemplate): Promise<void> {
    const isKnown = this.#templates.some(({ id }) => id === next.id);
    this.#templates = isKnown
      ? this.#templates.map((one) => (one.id === next.id ? next : one))
      : [...this.#templates, next];
    await this.#write();
  }

  async remove(id: string): Promise<void> {
    this.#templates = this.#templates.filter((one) => one.id !== id);
    await this.#write();
  }

  #write(): Promise<void> {
    const next = this.#writing.then(
      () => this.#replace(),
      () => this.#replace(),
    );
    this.#writing = next;
    return next;
  }

  async #replace(): Promise<void> {
    const path = `${this.#path}.${newSandboxId()}`;
    try {
      const text = JSON.stringify({ format: FORMAT, templates: this.#templates }, null, 2);
      await writeFile(path, `${text}\n`, { mode: 0o600 });
      await rename(path, this.#path);
    } finally {
      await rm(path, { force: true });
    }
  }
}
