import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { CANARY, HANGING_CANARY, loadTarget, TARGETS } from './registry.ts';

const DEFINITION = /\b(?:target|structured)\(\s*'([a-z-]+)'/g;

describe('TARGETS', () => {
  it('has every target that a file defines, by its own name', async () => {
    const files = globSync('*.ts', { cwd: import.meta.dirname });
    const texts = files.map((file) => readFileSync(join(import.meta.dirname, file), 'utf8'));
    const defined = texts.flatMap((text) => [...text.matchAll(DEFINITION)].map(([, name]) => name));
    const known = [...Object.keys(TARGETS), CANARY, HANGING_CANARY];
    expect(defined.toSorted()).toEqual(known.toSorted());
    for (const name of known) expect((await loadTarget(name)).name).toBe(name);
    await expect(loadTarget('nothing')).rejects.toThrow('no fuzz target "nothing"');
  });
});
