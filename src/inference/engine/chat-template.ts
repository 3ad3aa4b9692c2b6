/** How the turns of a chat become a prompt: by the chat template of the model's file, if it can be used. */
import type { ChatWrapper, LlamaModel } from 'node-llama-cpp';
import { describeError } from '../../base/errors.ts';
import type { Library, Notice } from './load.ts';

/**
 * The wrapper of node-llama-cpp that renders the file's template, or code with the same result. A template that does not
 * parse, or renders no chat, is replaced by the wrapper that the library guesses; the notice says so.
 * @returns null: the file has no template, so the model gets transcripts, as base models do
 */
export function chooseChatWrapper(
  library: Pick<Library, 'resolveChatWrapper'>,
  model: LlamaModel,
  notice: Notice,
): ChatWrapper | null {
  const template: unknown = model.fileInfo.metadata.tokenizer?.chat_template;
  if (typeof template !== 'string' || template.trim() === '') {
    notice('the model file has no chat template; chats become transcripts, as for base models');
    return null;
  }
  try {
    const wrapper = library.resolveChatWrapper(model, {
      fallbackToOtherWrappersOnJinjaError: false,
      warningLogs: false,
    });
    tryOut(wrapper);
    return wrapper;
  } catch (error) {
    const wrapper = library.resolveChatWrapper(model, { noJinja: true, warningLogs: false });
    const why = describeError(error).slice(0, REASON_CHARACTERS_MAX);
    notice(`the chat template "${wrapper.wrapperName}" is used: that of the file fails (${why})`);
    return wrapper;
  }
}

/** A template may quote itself in its error. */
const REASON_CHARACTERS_MAX = 160;

/** Some templates parse, and raise an error only when they render. */
function tryOut(wrapper: ChatWrapper): void {
  wrapper.generateContextState({
    chatHistory: [
      { type: 'user', text: 'a' },
      { type: 'model', response: [] },
    ],
  });
}
