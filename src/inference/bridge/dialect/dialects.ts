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

/** Every client of Anthropic's API sends this header. */
const ANTHROPIC_HEADER = 'anthropic-version';

/**
 * Selects a request's dialect by its path. If several dialects or none have the path (e.g. models), its headers decide.
 */
export function dialectOf(url: string, headers: IncomingHttpHeaders): Dialect {
  if (isAnthropicPath(url)) return anthropicDialect;
  if (isOllamaPath(url)) return ollamaDialect;
  if (isResponsesPath(url)) return responsesDialect;
  if (headers[ANTHROPIC_HEADER] === undefined) return openaiDialect;
  const own = openaiDialect.route('POST', url);
  return own.ok && own.value.kind === 'inference' ? openaiDialect : anthropicDialect;
}
