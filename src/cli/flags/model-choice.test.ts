import { describe, expect, it } from 'vitest';
import { readConfig } from '../../base/config.ts';
import type { Upstream } from '../../host/runtime/upstream.ts';
import { modelChoice } from './model-choice.ts';

const upstream = (models: readonly string[] | null): Upstream => ({
  description: 'Ollama at 127.0.0.1:11434',
  needsModel: false,
  defaultModel: models?.[0] ?? 'smollm2-135m-instruct',
  models,
  offered: async () => null,
  source: () => () => Promise.reject(new Error('not used')),
  warm: () => Promise.resolve(),
  close: () => Promise.resolve(),
});

const config = readConfig({ NEUROVISOR_HOME: '/nowhere' });

describe('modelChoice', () => {
  it('without --model, requests no model', () => {
    expect(modelChoice(undefined, config)).toMatchObject({ path: undefined, policy: {} });
  });

  it('accepts a name that the server offers', () => {
    const choice = modelChoice('qwen3', config);
    expect(choice.policy).toEqual({ defaultModel: 'qwen3' });
    expect(() => choice.check(upstream(['llama3', 'qwen3']))).not.toThrow();
  });

  it('rejects an unknown name and lists the offered names', () => {
    for (const models of [['llama3', 'qwen3'], null]) {
      expect(() => modelChoice('gpt-9', config).check(upstream(models))).toThrow(
        expect.objectContaining({
          code: 'model_unknown',
          message: 'Ollama at 127.0.0.1:11434 has no model "gpt-9"',
          remedy: expect.stringContaining(models?.[1] ?? 'smollm2-135m-instruct'),
        }),
      );
    }
  });

  it('passes a .gguf path to the engine and rejects a missing file', () => {
    expect(() => modelChoice('/nowhere/x.gguf', config)).toThrow('does not exist');
  });
});
