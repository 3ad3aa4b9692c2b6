import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { canary } from './canary.ts';
import { keepCrasher, keepInputs, keptInputs, keptPath } from './kept-inputs.ts';
import { CANARY, loadTarget, TARGETS } from './registry.ts';
import { replay } from './replay.ts';

const KEPT_BYTES_MAX = 1024 * 1024;

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-inputs-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

const BREAKS_CANARY = Buffer.from('6e76f00d6f70656e0c000000', 'hex');

describe('keptInputs', () => {
  it('inputs read back as they were kept, each once', () => {
    const inputs = [Buffer.of(0, 10, 255), Buffer.from('text\n'), Buffer.of(0, 10, 255)];
    keepInputs('corpus', 'dns', inputs, dir);
    expect(keptInputs('corpus', 'dns', dir)).toEqual(inputs.slice(0, 2));
    keepCrasher('dns', Buffer.of(1), dir);
    keepCrasher('dns', Buffer.of(2), dir);
    expect(keptInputs('crashers', 'dns', dir)).toEqual([Buffer.of(1), Buffer.of(2)]);
  });

  it('all inputs in the repository together are small', () => {
    const sizes = (['corpus', 'crashers'] as const).flatMap((kind) => {
      const folder = dirname(keptPath(kind, 'any'));
      return readdirSync(folder).map((file) => statSync(join(folder, file)).size);
    });
    expect(sizes.reduce((sum, size) => sum + size, 0)).toBeLessThan(KEPT_BYTES_MAX);
  });
});

describe('replay', () => {
  it.each(Object.keys(TARGETS))('%s: every kept input passes', async (name) => {
    const target = await loadTarget(name);
    expect(target.name).toBe(name);
    for (const seed of target.seeds) await target.check(seed);
    expect(await replay(target)).toBeUndefined();
  });

  it('names an input that fails, and its meaning', async () => {
    keepCrasher(CANARY, Buffer.from('harmless'), dir);
    expect(await replay(canary, dir)).toBeUndefined();
    keepCrasher(CANARY, BREAKS_CANARY, dir);
    expect(await replay(canary, dir)).toMatch(
      /^canary: line 2 of .*canary\.txt fails: "nv.*open.*"\nError: the planted bug/,
    );
  });
});
