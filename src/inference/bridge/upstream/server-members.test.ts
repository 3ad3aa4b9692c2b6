import { describe, expect, it } from 'vitest';
import { isOllama } from './server-members.ts';

describe('isOllama', () => {
  it.each([
    ['smollm2:latest', 'library'],
    ['someone/qwen3:8b', 'someone'],
    ['hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M', 'bartowski'],
  ])('%s of %s', (id, ownedBy) => expect(isOllama({ id, ownedBy })).toBe(true));
  it.each([
    ['smollm2', 'llamacpp'],
    ['gpt-5-mini', 'openai'],
    ['ft:gpt-5-mini:acme', 'acme'],
    ['Qwen/Qwen3-8B', 'vllm'],
    ['library', 'library'],
    ['m1', 'upstream'],
  ])('not %s of %s', (id, ownedBy) => expect(isOllama({ id, ownedBy })).toBe(false));
});
