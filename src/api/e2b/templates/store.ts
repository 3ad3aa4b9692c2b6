/**
 * Templates that clients of one tenant have built, in one file that is replaced by a rename. A template is a name with
 * finished builds, and tags that point to them; the files of a build are a template of ours.
 */
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { z } from 'zod';
import { describeError, ifThere } from '../../../base/errors.ts';
import { newSandboxId } from '../../../base/ids.ts';
import { ignore } from '../../../base/ignore.ts';
import type { Log } from '../../../base/log.ts';
import { MIB } from '../../../base/units.ts';

const FORMAT = 1;
const build = z.object({
  id: z.uuid(),
  createdAtMs: z.number(),
  finishedAtMs: z.number(),
  size: z.object({ cpus: z.number(), memoryMib: z.number(), diskMib: z.number() }),
  /** A template that is built from this one has the same program. */
  start: z.object({ command: z.string().nullable(), ready: z.string().nullable() }).nullable(),
  /** Space of its image and RAM, and the key that equal builds share. */
  files: z.object({ key: z.string(), bytes: z.number() }).exactOptional(),
});
const template = z.object({
  id: z.string(),
  name: z.string(),
  isPublic: z.boolean(),
  createdAtMs: z.number(),
  updatedAtMs: z.number(),
  /** Oldest first. Those without a tag are removed some time after their last use. */
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

  /**
   * A damaged file is moved aside, and the log says where; an unreadable one stays. @throws errors of the file system
   */
  static async open(path: string, log: Log): Promise<TemplateStore> {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    const text = await ifThere(readFile(path, 'utf8'));
    if (text === undefined) return new TemplateStore(path, []);
    try {
      const { templates } = file.parse(JSON.parse(text));
      return new TemplateStore(path, templates);
    } catch (error) {
      const aside = `${path}.damaged`;
      await rename(path, aside);
      log.error(`the names of E2B templates are damaged; they are now in ${aside}`, {
        error: describeError(error).slice(0, 500),
      });
      return new TemplateStore(path, []);
    }
  }

  get all(): readonly StoredTemplate[] {
    return this.#templates;
  }

  /** Bytes of all builds: equal ones have the same files. */
  get bytes(): number {
    const builds = this.#templates.flatMap((template) => template.builds);
    // Those of earlier versions count with their RAM.
    const files = builds.map(({ id, size, files: own = { key: id, bytes: size.memoryMib * MIB } }) => own);
    return [...new Map(files.map(({ key, bytes }) => [key, bytes])).values()].reduce((sum, one) => sum + one, 0);
  }

  find(idOrName: string): StoredTemplate | undefined {
    return this.#templates.find(({ id, name }) => id === idOrName || name === idOrName);
  }

  /** Adds the template, or replaces the one with its id. Resolves when it is on disk. */
  async put(next: StoredTemplate): Promise<void> {
    await this.#change((all) =>
      all.some(({ id }) => id === next.id) ? all.map((one) => (one.id === next.id ? next : one)) : [...all, next],
    );
  }

  /** Changes the template with this id, if there is one, as it is when earlier changes are on disk. */
  async update(id: string, change: (template: StoredTemplate) => StoredTemplate): Promise<void> {
    await this.#change((all) => all.map((one) => (one.id === id ? change(one) : one)));
  }

  async remove(id: string): Promise<void> {
    await this.#change((all) => all.filter((one) => one.id !== id));
  }

  /** Applies one change after the other, each once it is on disk: one that can't be written has no effect. */
  async #change(change: (all: readonly StoredTemplate[]) => readonly StoredTemplate[]): Promise<void> {
    const done = this.#writing.then(async () => {
      const next = change(this.#templates);
      await this.#replace(next);
      this.#templates = next;
    });
    this.#writing = done.catch((error: unknown) => ignore(error, 'its caller gets it'));
    await done;
  }

  async #replace(templates: readonly StoredTemplate[]): Promise<void> {
    const path = `${this.#path}.${newSandboxId()}`;
    try {
      const text = JSON.stringify({ format: FORMAT, templates }, null, 2);
      await writeFile(path, `${text}\n`, { mode: 0o600 });
      await rename(path, this.#path);
    } finally {
      await rm(path, { force: true });
    }
  }
}
