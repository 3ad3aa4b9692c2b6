import { describe, expect, it } from 'vitest';
import { conversationOf } from './affinity.ts';

const SYSTEM = { role: 'system', content: 'You are terse.' };
const FIRST = { role: 'user', content: 'Name a river.' };
const begun = conversationOf({ model: 'm', messages: [SYSTEM, FIRST] });

describe('conversationOf', () => {
  it('is the same for all requests of a conversation', () => {
    const answer = { role: 'assistant', content: 'Nile' };
    const more = [SYSTEM, FIRST, answer, { role: 'user', content: 'Another.' }];
    expect(conversationOf({ model: 'm', messages: more, temperature: 1 })).toBe(begun);
  });

  it.each([
    ['another question', { model: 'm', messages: [SYSTEM, { ...FIRST, content: 'A hill?' }] }],
    ['other instructions', { model: 'm', messages: [{ ...SYSTEM, content: '' }, FIRST] }],
    ['another model', { model: 'n', messages: [SYSTEM, FIRST] }],
    ['another role', { model: 'm', messages: [SYSTEM, { ...FIRST, role: 'tool' }] }],
    ['Anthropic’s system', { model: 'm', system: 'You are terse.', messages: [FIRST] }],
  ])('differs for %s', (_, body) => {
    expect(conversationOf(body)).not.toBeNull();
    expect(conversationOf(body)).not.toBe(begun);
  });

  it('reads text in parts, and ignores the rest', () => {
    const of = (...parts: unknown[]) => conversationOf({ messages: [{ role: 'user', content: parts }] });
    const text = { type: 'text', text: 'What is this?' };
    const image = { type: 'image_url', image_url: { url: 'data:,a' } };
    expect(of(text, image)).toBe(of(text, { ...image, image_url: { url: 'data:,b' } }));
    expect(of(text)).not.toBe(of({ ...text, text: 'What is that?' }));
  });

  it.each([[{}], [{ input: 'a' }], [{ messages: 1 }], [{ messages: [] }], [{ prompt: [1, 2] }]])(
    'is null for %j',
    (body) => expect(conversationOf(body)).toBeNull(),
  );

  it('does not fail for fields of other types', () => {
    const messages = [null, 1, [FIRST], { role: {}, content: { text: 'a' } }, { content: [null, [[]]] }];
    expect(conversationOf({ model: 1, system: [{ text: 2 }], prompt: null, messages })).toMatch(/^[\w-]{43}$/);
  });
});
