import type { ChatWrapper, LlamaModel } from 'node-llama-cpp';
import { describe, expect, it } from 'vitest';
import { chooseChatWrapper } from './chat-template.ts';
import type { Library } from './load.ts';

interface Fake {
  readonly wrapperName: string;
  generateContextState(): object;
}

const fine = (wrapperName: string): Fake => ({ wrapperName, generateContextState: () => ({}) });

/** @param own the wrapper for the file's template, or the error of creating it */
function choose(template: unknown, own: Fake | Error) {
  const notices: string[] = [];
  const resolveChatWrapper = (_model: LlamaModel, options: { noJinja?: boolean }) => {
    if (options.noJinja === true) return fine('ChatML');
    if (own instanceof Error) throw own;
    return own;
  };
  const library = { resolveChatWrapper } as unknown as Library;
  const model = { fileInfo: { metadata: { tokenizer: { chat_template: template } } } };
  const wrapper: ChatWrapper | null = chooseChatWrapper(library, model as unknown as LlamaModel, (message) =>
    notices.push(message),
  );
  return { name: wrapper?.wrapperName ?? null, notices };
}

describe('chooseChatWrapper', () => {
  it('uses the wrapper of a working template, without a notice', () => {
    expect(choose('{{ x }}', fine('JinjaTemplate'))).toEqual({ name: 'JinjaTemplate', notices: [] });
  });

  it.each([undefined, '', ' \n', 7, ['x']])('uses no wrapper without a template (%j), with one notice', (template) => {
    expect(choose(template, fine('JinjaTemplate'))).toEqual({
      name: null,
      notices: [expect.stringMatching(/no chat template.*transcripts/)],
    });
  });

  const raising: Fake = {
    wrapperName: 'JinjaTemplate',
    generateContextState: () => {
      throw new Error('only system messages, please');
    },
  };
  it.each<[string, Fake | Error, string]>([
    ['does not parse', new Error('unexpected end'), 'unexpected end'],
    ['fails when it renders', raising, 'only system messages, please'],
  ])('replaces a template that %s, and names the replacement in one notice', (_name, own, why) => {
    expect(choose('{{ x', own)).toEqual({
      name: 'ChatML',
      notices: [`the chat template "ChatML" is used: that of the file fails (${why})`],
    });
  });

  it('does not repeat a whole template in a notice', () => {
    const { notices } = choose('{{', new Error('x'.repeat(100_000)));
    expect(notices[0]?.length).toBeLessThan(300);
  });
});
