/** The four chat APIs of a sandbox, as plain HTTP: how a question is written in each, and how its answer is read. */

export interface Question {
  readonly model: string;
  readonly text: string;
  readonly stream: boolean;
  readonly maxTokens?: number;
  /** JSON Schema of the answer. */
  readonly schema?: object;
  /** A function that the model must call, if the server can enforce it. */
  readonly tool?: { readonly name: string; readonly description: string; readonly parameters: object };
}

export interface ReadAnswer {
  readonly text: string;
  readonly calls: readonly { readonly name: string; readonly input: unknown }[];
  readonly promptTokens: number;
  readonly completionTokens: number;
  /** The finish reason, in the API's terms. */
  readonly finish: string;
}

export interface ModelApi {
  readonly path: string;
  body(question: Question): object;
  /** @param body of an answer with status 200 */
  read(body: string, stream: boolean): ReadAnswer;
  /** Appears in a stream with text. */
  readonly textMark: string;
  /** The message of an error. */
  errorOf(body: string): string;
}

// biome-ignore lint/suspicious/noExplicitAny: answers of servers, read by tests that fail if they differ
type Json = any;

const events = (body: string): Json[] =>
  body
    .split('\n')
    .filter((line) => line.startsWith('data: ') && line !== 'data: [DONE]')
    .map((line) => JSON.parse(line.slice(6)));
const lines = (body: string): Json[] =>
  body
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line));
const joined = (texts: readonly (string | undefined | null)[]): string => texts.map((text) => text ?? '').join('');

const chat: ModelApi = {
  path: '/v1/chat/completions',
  textMark: '"content":"',
  body: ({ model, text, stream, maxTokens, schema, tool }) => ({
    model,
    messages: [{ role: 'user', content: text }],
    temperature: 0,
    ...(stream ? { stream, stream_options: { include_usage: true } } : {}),
    ...(maxTokens === undefined ? {} : { max_tokens: maxTokens }),
    ...(schema === undefined
      ? {}
      : { response_format: { type: 'json_schema', json_schema: { name: 'answer', schema } } }),
    ...(tool === undefined ? {} : { tools: [{ type: 'function', function: tool }], tool_choice: 'required' }),
  }),
  read: (body, stream) => {
    if (!stream) {
      const { choices, usage }: Json = JSON.parse(body);
      const [{ message, finish_reason: finish }] = choices;
      const calls = (message.tool_calls ?? []).map(readCall);
      return { text: message.content ?? '', calls, finish, ...openaiUsage(usage) };
    }
    const all = events(body);
    const choices = all.flatMap((event) => event.choices);
    const deltas = choices.map(({ delta }) => delta);
    const parts = deltas.flatMap(({ tool_calls: calls = [] }) => calls);
    const names = parts.filter((part: Json) => part.function.name);
    const whole = names.map(({ index, function: { name } }: Json) => {
      const own = parts.filter((part: Json) => part.index === index);
      const text = joined(own.map((part: Json) => part.function.arguments));
      return readCall({ function: { name, arguments: text } });
    });
    return {
      text: joined(deltas.map(({ content }) => content)),
      calls: whole,
      finish: choices.findLast(({ finish_reason }) => finish_reason)?.finish_reason,
      ...openaiUsage(all.findLast(({ usage }) => usage)?.usage),
    };
  },
  errorOf: (body) => JSON.parse(body).error.message,
};

const readCall = ({ function: { name, arguments: text } }: Json) => ({ name, input: JSON.parse(text) });
const openaiUsage = (usage: Json) => ({ promptTokens: usage.prompt_tokens, completionTokens: usage.completion_tokens });

const messages: ModelApi = {
  path: '/v1/messages',
  textMark: 'text_delta',
  body: ({ model, text, stream, maxTokens = 1000, schema, tool }) => ({
    model,
    messages: [{ role: 'user', content: text }],
    temperature: 0,
    stream,
    max_tokens: maxTokens,
    ...(schema === undefined ? {} : { output_config: { format: { type: 'json_schema', schema } } }),
    ...(tool === undefined
      ? {}
      : {
          tools: [{ name: tool.name, description: tool.description, input_schema: tool.parameters }],
          tool_choice: { type: 'any' },
        }),
  }),
  read: (body, stream) => {
    if (!stream) {
      const { content, stop_reason: finish, usage }: Json = JSON.parse(body);
      const of = (type: string): Json[] => content.filter((block: Json) => block.type === type);
      const calls = of('tool_use').map(({ name, input }) => ({ name, input }));
      const text = joined(of('text').map((block) => block.text));
      return { text, calls, finish, ...anthropicUsage(usage) };
    }
    const all = events(body);
    const deltas = all.filter(({ type }) => type === 'content_block_delta');
    const starts = all.filter(({ content_block: block }) => block?.type === 'tool_use');
    const end = all.find(({ type }) => type === 'message_delta');
    if (all.at(-1).type !== 'message_stop') throw new Error(`not whole: ${body}`);
    return {
      text: joined(deltas.map(({ delta }) => delta.text)),
      calls: starts.map(({ index, content_block: { name } }) => {
        const own = deltas.filter((one) => one.index === index);
        return { name, input: JSON.parse(joined(own.map(({ delta }) => delta.partial_json))) };
      }),
      finish: end.delta.stop_reason,
      ...anthropicUsage(end.usage),
    };
  },
  errorOf: (body) => JSON.parse(body).error.message,
};

const anthropicUsage = (usage: Json) => ({ promptTokens: usage.input_tokens, completionTokens: usage.output_tokens });

const responses: ModelApi = {
  path: '/v1/responses',
  textMark: 'output_text.delta',
  body: ({ model, text, stream, maxTokens, schema, tool }) => ({
    model,
    input: text,
    temperature: 0,
    stream,
    ...(maxTokens === undefined ? {} : { max_output_tokens: maxTokens }),
    ...(schema === undefined ? {} : { text: { format: { type: 'json_schema', name: 'answer', schema } } }),
    ...(tool === undefined ? {} : { tools: [{ type: 'function', ...tool }], tool_choice: 'required' }),
  }),
  read: (body, stream) => {
    const whole: Json = stream ? events(body).at(-1)?.response : JSON.parse(body);
    const parts: Json[] = whole.output.flatMap(({ content = [] }: Json) => content);
    const text = joined(parts.map((part) => part.text));
    if (stream) {
      const pieces = events(body).filter(({ type }) => type === 'response.output_text.delta');
      const said = joined(pieces.map(({ delta }) => delta));
      if (said !== text) throw new Error(`${said} is not ${text}`);
    }
    const { input_tokens: promptTokens, output_tokens: completionTokens } = whole.usage;
    const calls = whole.output
      .filter(({ type }: Json) => type === 'function_call')
      .map((call: Json) => readCall({ function: call }));
    const finish = whole.incomplete_details?.reason ?? whole.status;
    return { text, calls, finish, promptTokens, completionTokens };
  },
  errorOf: (body) => JSON.parse(body).error.message,
};

const ollama: ModelApi = {
  path: '/api/chat',
  textMark: '"content":"',
  body: ({ model, text, stream, maxTokens, schema, tool }) => ({
    model,
    messages: [{ role: 'user', content: text }],
    stream,
    options: { temperature: 0, ...(maxTokens === undefined ? {} : { num_predict: maxTokens }) },
    ...(schema === undefined ? {} : { format: schema }),
    ...(tool === undefined ? {} : { tools: [{ type: 'function', function: tool }] }),
  }),
  read: (body) => {
    const all = lines(body);
    const last = all.at(-1);
    if (last?.done !== true) throw new Error(`not whole: ${body}`);
    const calls = all.flatMap(({ message }) => message.tool_calls ?? []);
    return {
      text: joined(all.map(({ message }) => message.content)),
      calls: calls.map(({ function: { name, arguments: input } }) => ({ name, input })),
      finish: last.done_reason,
      promptTokens: last.prompt_eval_count,
      completionTokens: last.eval_count,
    };
  },
  errorOf: (body) => JSON.parse(body).error,
};

export const MODEL_APIS = { chat, messages, responses, ollama } as const;
export type ModelApiName = keyof typeof MODEL_APIS;
