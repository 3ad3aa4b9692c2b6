import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { runSeed } from '../support/run-seed.ts';
import { canary, FUZZ_TARGETS } from './registry.ts';
import { replay, savedInputs, saveInput } from './saved-inputs.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-regressions-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

describe('saveInput', () => {
  it.each(FUZZ_TARGETS)('inputs of $name read back as they were saved', ({ name, input }) => {
    const inputs = fc.sample(input, { seed: runSeed(), numRuns: 10 });
    for (const [index, each] of inputs.entries()) {
      saveInput(`${name}-${index}`, each, dir);
      expect(savedInputs(`${name}-${index}`, dir)).toEqual([each]);
    }
  });

  it('keeps an input once', () => {
    saveInput('canary', 901, dir);
    saveInput('canary', 901, dir);
    saveInput('canary', 902, dir);
    expect(savedInputs('canary', dir)).toEqual([901, 902]);
  });
});

describe('replay', () => {
  it('fails on a saved input that fails again, and names it', () => {
    saveInput('canary', 1, dir);
    replay(canary, dir);
    saveInput('canary', 950, dir);
    expect(() => replay(canary, dir)).toThrow(
      /^canary: input 1 of .*canary\.json fails again: 950$/,
    );
  });
});
