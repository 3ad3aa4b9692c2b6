import { describe, expect, it } from 'vitest';
import { type BridgePolicy, resolveModel, visibleModels } from './policy.ts';

const LISTED = ['llama3:latest', 'qwen'];

describe('resolveModel', () => {
  const cases: [string, string | undefined, BridgePolicy, string[] | null, string | number][] = [
    ['takes a listed name', 'qwen', {}, LISTED, 'qwen'],
    ['refuses an unlisted name', 'nope', {}, LISTED, 404],
    ['refuses a listed name that is not allowed', 'qwen', { allowModels: ['x'] }, LISTED, 404],
    ['takes an allowed name', 'x', { allowModels: ['x'] }, LISTED, 'x'],
    ['takes an alias', 'fast', { aliases: { fast: 'qwen' } }, LISTED, 'qwen'],
    ['follows an alias once', 'a', { aliases: { a: 'b', b: 'c' } }, LISTED, 'b'],
    ['prefers an alias to the name itself', 'qwen', { aliases: { qwen: 'z' } }, LISTED, 'z'],
    ['takes the rest by *', 'nope', { aliases: { '*': 'qwen' } }, LISTED, 'qwen'],
    ['keeps a listed name despite *', 'qwen', { aliases: { '*': 'z' } }, LISTED, 'qwen'],
    ['does not take * as a name', '*', { aliases: { '*': 'qwen' } }, LISTED, 'qwen'],
    ['completes a tag as Ollama does', 'llama3', {}, LISTED, 'llama3:latest'],
    ['takes any name when nobody can list', 'any', {}, null, 'any'],
    ['needs a name even then', undefined, {}, null, 404],
    ['gives the default for no name', undefined, { defaultModel: 'qwen' }, LISTED, 'qwen'],
    ['gives the default for "default"', 'default', { defaultModel: 'qwen' }, LISTED, 'qwen'],
    ['gives the default for hosted names', 'gpt-4o-mini', { defaultModel: 'qwen' }, LISTED, 'qwen'],
    ['gives no default for other names', 'nope', { defaultModel: 'qwen' }, LISTED, 404],
    ['refuses a hosted name without default', 'gpt-4o-mini', {}, LISTED, 404],
    ['is not fooled by inherited names', 'constructor', { aliases: {} }, LISTED, 404],
  ];
  it.each(cases)('%s', (_, asked, policy, listed, expected) => {
    const result = resolveModel(asked, policy, listed);
    expect(result.ok ? result.value : result.refusal.status).toBe(expected);
  });

  it('names the available models when a model is unknown', () => {
    const result = resolveModel('nope', { aliases: { fast: 'qwen' } }, LISTED);
    expect(result.ok ? '' : result.refusal.message).toBe(
      'The model "nope" does not exist here. Available: llama3:latest, qwen, fast.',
    );
  });
});

describe('visibleModels', () => {
  it('shows allowed names and aliases with the upstream’s data', () => {
    const listed = [
      { id: 'a', created: 5, ownedBy: 'ollama' },
      { id: 'b', created: 6, ownedBy: 'ollama' },
    ];
    const policy = { allowModels: ['a', 'c'], aliases: { fast: 'b', '*': 'a' } };
    expect(visibleModels(policy, listed)).toEqual([
      { id: 'a', created: 5, ownedBy: 'ollama' },
      { id: 'c', created: 0, ownedBy: 'neurovisor' },
      { id: 'fast', created: 6, ownedBy: 'ollama' },
    ]);
  });
});
