/**
 * The models that `models pull` has fetched for the built-in engine (I/O). Each has a directory of its own, which appears
 * and disappears atomically, by a rename:
 *
 *     <cacheDir>/models/NAME/model.json      its source, and data of its header
 *                           /NAME.gguf       or NAME-00001-of-00003.gguf …, names that llama.cpp knows
 *                      /.tmp/NAME/           a pull under way, by the process with the lock
 *                      /.locks/NAME
 */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { errorCode } from '../../../base/errors.ts';
import { ignore } from '../../../base/ignore.ts';
import { namesIn } from '../../../base/names-in.ts';
import { nearNames } from '../../../base/text/near-names.ts';
import type { PulledModel } from '../../../sandbox/contract/schema/contents.ts';
import { ModelError } from './errors.ts';

const FORMAT = 1;
const RECORD_BYTES_MAX = 4 * 1024 * 1024;
export const RECORD = 'model.json';

const text = z.string().max(4_096);
const count = z.number().int().min(0);
const recordSchema = z.object({
  format: z.literal(FORMAT),
  /** The complete reference of the request: `docker.io` is omitted, paths are absolute. */
  source: text,
  /** Digest of its manifest; for local files, a digest of sizes and times. If equal, nothing has changed. */
  version: text,
  files: z
    .array(z.object({ name: z.string().regex(/^[\w.-]+\.gguf$/), bytes: count, digest: text }))
    .min(1)
    .max(1_000),
  architecture: text.nullable(),
  quantization: text.nullable(),
  parameters: count,
  contextTokens: count.nullable(),
  hasChatTemplate: z.boolean(),
  /** Milliseconds since 1970. */
  pulledAtMs: z.number(),
});
export type ModelRecord = z.infer<typeof recordSchema>;

/** Names of pulled models are also model names in requests. */
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$/;

export const isModelName = (name: string): boolean => NAME.test(name) && !/\.gguf$/i.test(name);

export class ModelStore {
  readonly dir: string;

  /** @param cacheDir of the home */
  constructor(cacheDir: string) {
    this.dir = join(cacheDir, 'models');
  }

  modelDir(name: string): string {
    return join(this.dir, name);
  }

  tmpDir(name: string): string {
    return join(this.dir, '.tmp', name);
  }

  lockPath(name: string): string {
    return join(this.dir, '.locks', name);
  }

  /** Sorted by name. Omits damaged ones. */
  async list(): Promise<readonly PulledModel[]> {
    const names = (await namesIn(this.dir)).filter(isModelName).sort();
    return names.flatMap((name) => this.find(name) ?? []);
  }

  /** `null` if there is none of this name, or it is damaged. */
  find(name: string): PulledModel | null {
    if (!isModelName(name)) return null;
    const path = join(this.modelDir(name), RECORD);
    try {
      if (statSync(path).size > RECORD_BYTES_MAX) return null;
      const { format: _always, ...record } = recordSchema.parse(JSON.parse(readFileSync(path, 'utf8')));
      const files = record.files.map((file) => join(this.modelDir(name), file.name));
      if (files.some((file, i) => statSync(file).size !== record.files[i]?.bytes)) return null;
      const bytes = record.files.reduce((sum, file) => sum + file.bytes, 0);
      return { ...record, name, bytes, path: files[0] ?? '' };
    } catch (error) {
      if (errorCode(error) !== 'ENOENT') ignore(error, 'a damaged model is pulled again');
      return null;
    }
  }

  /** Bytes on disk, also for a damaged one. @throws ModelError `model_not_found` */
  async size(name: string): Promise<number> {
    const dir = this.modelDir(name);
    if (!isModelName(name) || !existsSync(dir)) return (await this.get(name)).bytes;
    const files = await namesIn(dir);
    return files.reduce((sum, file) => sum + sizeOf(join(dir, file)), 0);
  }

  /** @throws ModelError `model_not_found` */
  async get(name: string): Promise<PulledModel> {
    const found = this.find(name);
    if (found !== null) return found;
    const names = (await this.list()).map((one) => one.name);
    const near = nearNames(name, names);
    const hint = near.length > 0 ? `did you mean ${near.join(' or ')}? ` : '';
    throw new ModelError('model_not_found', `no pulled model is named "${name.slice(0, 100)}"`, {
      remedy: `${hint}see them with: neurovisor models ls`,
    });
  }
}

/** 0 if the file was removed just now. */
const sizeOf = (path: string): number => statSync(path, { throwIfNoEntry: false })?.size ?? 0;

/** @throws ModelError `model_invalid` if the record could not be read again */
export function recordText(record: Omit<ModelRecord, 'format'>): string {
  const checked = recordSchema.safeParse({ format: FORMAT, ...record });
  if (checked.success) return `${JSON.stringify(checked.data, null, 2)}\n`;
  const [issue] = checked.error.issues;
  throw new ModelError('model_invalid', 'what the model says about itself is too large', {
    cause: `${issue?.path.map(String).join('.')}: ${issue?.message}`,
    remedy: 'use a model of another publisher',
  });
}
