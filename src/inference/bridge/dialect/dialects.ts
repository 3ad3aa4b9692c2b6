import type { IncomingHttpHeaders } from 'node:http';
import { anthropicDialect, isAnthropicPath } from './anthropic/anthropic.ts';
import type { Dialect } from './dialect.ts';
import { isOllamaPath, ollamaDialect } from './ollama/ollama.ts';
import { openaiDialect } from './openai/openai.ts';
import { isResponsesPath, responsesDialect } from './responses/responses.ts';

/** By name: a dialect has functions, so a thread gets its name. */
export const DIALECTS: Readonly<Record<string, Dialect>> = {
  [openaiDialect.name]: openaiDialect,
  [anthropicDialect.name]: anthropicDialect,
  [ollamaDialect.name]: ollamaDialect,
  [responsesDialect.name]: responsesDialect,
};

/** Every client of Anthropic's API sends it. */
const ANTHROPIC_HEADER = 'anthropic-version';

/**
 * The dialect of a request: that of its path; where several have the path (models) or none has it, that of its headers.
 */
export function dialectOf(url: string, headers: IncomingHttpHeaders): Dialect {
  if (isAnthropicPath(url)) return anthropicDialect;
  if (isOllamaPath(url)) return ollamaDialect;
  if (isResponsesPath(url)) return responsesDialect;
  if (headers[ANTHROPIC_HEADER] === undefined) return openaiDialect;
  const own = openaiDialect.route('POST', url);
  return own.ok && own.value.kind === 'inference' ? openaiDialect : anthropicDialect;
}
