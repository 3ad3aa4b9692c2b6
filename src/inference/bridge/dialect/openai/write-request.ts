/** Writes a conversation as a request for chat completions. Pure. */
import { type JsonObject, withoutUndefined } from '../../json-body.ts';
import type {
  ConversationRequest,
  ImagePart,
  Message,
  Part,
  TextPart,
  Tool,
  ToolChoice,
  ToolResultPart,
} from '../model.ts';

/** Separates texts that were separate parts. Most model servers accept only one string. */
export const TEXT_GAP = '\n\n';
/** Tool messages have no error flag. */
export const ERROR_PREFIX = 'Error: ';
/** A tool message can't contain images, so they follow in a user message. */
export const IMAGES_FOLLOW = '(images in the next message)';

export function writeRequest(request: ConversationRequest): JsonObject {
  const { model, stream, system, messages, tools, toolChoice, maxTokens, stop, format } = request;
  const start = system === '' ? [] : [{ role: 'system', content: system }];
  const hasTools = tools.length > 0;
  const choice = hasTools && toolChoice !== undefined ? writeChoice(toolChoice) : undefined;
  return withoutUndefined({
    model,
    messages: [...start, ...messages.flatMap(writeMessage)],
    tools: hasTools ? tools.map(writeTool) : undefined,
    tool_choice: choice,
    parallel_tool_calls: hasTools && !request.parallelToolCalls ? false : undefined,
    max_tokens: maxTokens,
    temperature: request.temperature,
    top_p: request.topP,
    top_k: request.topK,
    min_p: request.minP,
    seed: request.seed,
    presence_penalty: request.presencePenalty,
    frequency_penalty: request.frequencyPenalty,
    stop: stop.length > 0 ? stop : undefined,
    response_format: format === undefined ? undefined : writeFormat(format, request.strictFormat),
    reasoning_effort: request.effort,
    stream: stream ? true : undefined,
    stream_options: stream ? { include_usage: true } : undefined,
  });
}

function writeMessage({ role, parts }: Message): readonly JsonObject[] {
  if (role === 'assistant') return [writeAssistant(parts)];
  const results = parts.filter((part) => part.type === 'tool-result');
  const shown = results.flatMap(({ content }) => content.filter(({ type }) => type === 'image'));
  const rest = parts.filter((part) => part.type === 'text' || part.type === 'image');
  const content = [...shown, ...rest];
  const said = content.length > 0 || results.length === 0;
  return [...results.map(writeResult), ...(said ? [{ role, content: writeContent(content) }] : [])];
}

function writeAssistant(parts: readonly Part[]): JsonObject {
  const calls = parts.filter((part) => part.type === 'tool-call');
  const reasoning = joined(parts, 'reasoning') || undefined;
  const text = joined(parts, 'text');
  return withoutUndefined({
    role: 'assistant',
    content: text === '' && calls.length > 0 ? null : text,
    reasoning_content: reasoning,
    // The only name that Ollama knows. vLLM and llama.cpp know both names, or the other one.
    reasoning,
    tool_calls:
      calls.length === 0
        ? undefined
        : calls.map(({ id, name, input }) => ({
            id,
            type: 'function',
            function: { name, arguments: JSON.stringify(input) },
          })),
  });
}

function writeResult({ id, isError, content }: ToolResultPart): JsonObject {
  const text = joined(content, 'text');
  const hasImages = content.some(({ type }) => type === 'image');
  const shown = text === '' && hasImages ? IMAGES_FOLLOW : text;
  return { role: 'tool', tool_call_id: id, content: isError ? ERROR_PREFIX + shown : shown };
}

function writeContent(parts: readonly (TextPart | ImagePart)[]): unknown {
  if (parts.every(({ type }) => type === 'text')) return joined(parts, 'text');
  return parts.map((part) =>
    part.type === 'text'
      ? { type: 'text', text: part.text }
      : { type: 'image_url', image_url: { url: `data:${part.mediaType};base64,${part.data}` } },
  );
}

function joined(parts: readonly Part[], type: 'text' | 'reasoning'): string {
  return parts.flatMap((part) => (part.type === type ? [part.text] : [])).join(TEXT_GAP);
}

function writeTool({ name, description, schema, strict }: Tool): JsonObject {
  const tool = withoutUndefined({ name, description, parameters: schema, strict });
  return { type: 'function', function: tool };
}

function writeChoice(choice: ToolChoice): unknown {
  if (choice.type === 'tool') return { type: 'function', function: { name: choice.name } };
  return choice.type === 'any' ? 'required' : choice.type;
}

function writeFormat(format: JsonObject | 'json', strict = true): JsonObject {
  if (format === 'json') return { type: 'json_object' };
  return { type: 'json_schema', json_schema: { name: 'answer', strict, schema: format } };
}
