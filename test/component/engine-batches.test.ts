/** Concurrent generations share the batches of llama.cpp, counted with a real model. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { findModel } from '../support/model.ts';
import { requires } from '../support/requires.ts';

const FIXTURE = join(import.meta.dirname, '../fixtures/engine-batches.ts');

requires('model', findModel()).describe('batches of the engine', (model) => {
  it('two concurrent answers: one batch computes a token of each', () => {
    const argv = ['--disable-warning=ExperimentalWarning', FIXTURE, model.path];
    const out = execFileSync(process.execPath, argv, { encoding: 'utf8' });
    const found = JSON.parse(out) as {
      readonly batches: number;
      readonly tokens: number;
      readonly texts: readonly string[];
    };
    for (const text of found.texts) expect(text.trim()).not.toBe('');
    // 32 tokens of two answers and both prompts; one more batch for the prompts.
    expect(found.tokens).toBeGreaterThan(32);
    expect(found.batches).toBeLessThan(20);
  });
});
