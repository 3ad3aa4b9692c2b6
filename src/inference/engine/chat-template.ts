/** Turns a chat into a prompt with the chat template of the model file, if it is usable. */
import type { ChatWrapper, LlamaModel } from 'node-llama-cpp';
import { describeError } from '../../base/errors.ts';
import type { Library, Notice } from './load.ts';

/**
 * Returns node-llama-cpp's wrapper that renders the file's template, or code with the same result. If the template does
 * not parse or renders no chat, the wrapper that the library guesses replaces it, with a notice.
 * @returns `null` if the file has no template, so that the model gets transcripts, as base models do
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

/** Some templates parse, and fail only when they render. */
function tryOut(wrapper: ChatWrapper): void {
  wrapper.generateContextState({
    chatHistory: [
      { type: 'user', text: 'a' },
      { type: 'model', response: [] },
    ],
  });
}
