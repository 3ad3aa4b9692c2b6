/** Inputs found by runs on this machine: `cache/fuzz/<target>/` in the home, one file each, named by its digest. */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export class WorkDir {
  readonly #dir: string;

  constructor(cacheDir: string) {
    this.#dir = join(cacheDir, 'fuzz');
  }

  inputs(name: string): readonly Uint8Array[] {
    const dir = join(this.#dir, name);
    if (!existsSync(dir)) return [];
    return readdirSync(dir).map((file) => readFileSync(join(dir, file)));
  }

  add(name: string, bytes: Uint8Array): void {
    const dir = join(this.#dir, name);
    mkdirSync(dir, { recursive: true });
    writeFileSync(join(dir, fileOf(bytes)), bytes);
  }

  /** Removes all others: smaller inputs have replaced them. */
  keepOnly(name: string, inputs: readonly Uint8Array[]): void {
    for (const bytes of inputs) this.add(name, bytes);
    const kept = new Set(inputs.map(fileOf));
    const dir = join(this.#dir, name);
    for (const file of readdirSync(dir)) if (!kept.has(file)) rmSync(join(dir, file));
  }
}

const fileOf = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex').slice(0, 20);
