import { describe, expect, it } from 'vitest';
import { type BridgePolicy, resolveModel, visibleModels } from './policy.ts';

const LISTED = ['llama3:latest', 'qwen'];

describe('resolveModel', () => {
  const cases: [string, string | undefined, BridgePolicy, string[] | null, string | number][] = [
    ['accepts a listed name', 'qwen', {}, LISTED, 'qwen'],
    ['refuses an unlisted name', 'nope', {}, LISTED, 404],
    ['refuses a listed name that is not allowed', 'qwen', { allowModels: ['x'] }, LISTED, 404],
    ['accepts an allowed name', 'x', { allowModels: ['x'] }, LISTED, 'x'],
    ['resolves an alias', 'fast', { aliases: { fast: 'qwen' } }, LISTED, 'qwen'],
    ['follows an alias once', 'a', { aliases: { a: 'b', b: 'c' } }, LISTED, 'b'],
    ['prefers an alias to the name itself', 'qwen', { aliases: { qwen: 'z' } }, LISTED, 'z'],
    ['maps other names by *', 'nope', { aliases: { '*': 'qwen' } }, LISTED, 'qwen'],
    ['keeps a listed name despite *', 'qwen', { aliases: { '*': 'z' } }, LISTED, 'qwen'],
    ['does not accept * as a name', '*', { aliases: { '*': 'qwen' } }, LISTED, 'qwen'],
    ['completes a tag like Ollama', 'llama3', {}, LISTED, 'llama3:latest'],
    ['accepts any name when the upstream has no list', 'any', {}, null, 'any'],
    ['requires a name even without a list', undefined, {}, null, 404],
    ['uses the default for no name', undefined, { defaultModel: 'qwen' }, LISTED, 'qwen'],
    ['uses the default for "default"', 'default', { defaultModel: 'qwen' }, LISTED, 'qwen'],
    ['uses the default for hosted names', 'gpt-4o-mini', { defaultModel: 'qwen' }, LISTED, 'qwen'],
    ['uses no default for other names', 'nope', { defaultModel: 'qwen' }, LISTED, 404],
    ['refuses a hosted name without default', 'gpt-4o-mini', {}, LISTED, 404],
    ['ignores inherited members', 'constructor', { aliases: {} }, LISTED, 404],
  ];
  it.each(cases)('%s', (_, asked, policy, listed, expected) => {
    const result = resolveModel(asked, policy, listed);
    expect(result.ok ? result.value : result.refusal.status).toBe(expected);
  });

  const mixed = ['llama3', 'fake-embed'];
  const chat = { defaultModel: 'llama3' };
  const small = 'text-embedding-3-small';
  it.each<[string, string | undefined, BridgePolicy, string[] | null, string | number]>([
    ['one embedding model', small, chat, mixed, 'fake-embed'],
    ['no name, one embedding model', undefined, chat, mixed, 'fake-embed'],
    ['no embedding model', small, chat, ['llama3'], 404],
    ['no list', small, chat, null, small],
    ['two embedding models', small, chat, [...mixed, 'bge-m3'], 404],
    ['the default is one of two', small, { defaultModel: 'bge-m3' }, [...mixed, 'bge-m3'], 'bge-m3'],
    ['another unknown name', 'nope', chat, mixed, 404],
    ['* is a chat model', 'nope', { aliases: { '*': 'llama3' } }, mixed, 404],
    ['* is an embedding model', 'nope', { aliases: { '*': 'bge-m3' } }, mixed, 'bge-m3'],
    ['an alias by name', small, { aliases: { [small]: 'own' } }, mixed, 'own'],
    ['not allowed', small, { ...chat, allowModels: ['llama3'] }, mixed, 404],
    ['a chat model by its name', 'llama3', chat, mixed, 'llama3'],
  ])('embeddings: %s', (_, asked, policy, listed, expected) => {
    const result = resolveModel(asked, policy, listed, 'embeddings');
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
