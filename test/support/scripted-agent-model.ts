/**
 * A scripted model for agents: it requests tool calls, one after another, and then answers with the result of the last
 * one. OpenAI's two interfaces, without streams.
 */
import type { MockUpstream } from './mock-upstream.ts';
import { sendJson } from './mock-upstream.ts';

export interface ToolCall {
  readonly name: string;
  readonly arguments: Readonly<Record<string, unknown>>;
}

/** Variables by which OpenAI clients find the model. */
export const modelEnv = (upstream: MockUpstream): Readonly<Record<string, string>> => ({
  OPENAI_BASE_URL: `${upstream.target.baseUrl ?? ''}/v1`,
  OPENAI_API_KEY: 'test',
  OPENAI_MODEL: 'scripted',
});

/**
 * Makes the upstream such a model.
 * @returns results of tools, in order; grows as the agent runs
 */
export function scriptAgent(upstream: MockUpstream, calls: readonly ToolCall[]): string[] {
  const returned: string[] = [];
  upstream.answer(({ path, body }, response) => {
    const request = JSON.parse(body) as { messages?: unknown[]; input?: unknown };
    const results = resultsOf(request.messages ?? request.input);
    returned.splice(0, returned.length, ...results);
    const call = calls[results.length];
    const id = `call_${results.length}`;
    const answer = `The sandbox says: ${results.at(-1) ?? 'nothing'}`;
    const isChat = path.endsWith('/chat/completions');
    sendJson(response, 200, isChat ? chat(id, call, answer) : responses(id, call, answer));
  });
  return returned;
}

interface Item {
  readonly role?: string;
  readonly content?: unknown;
  readonly type?: string;
  readonly output?: unknown;
}

function resultsOf(conversation: unknown): string[] {
  const items = Array.isArray(conversation) ? (conversation as Item[]) : [];
  return items.flatMap(({ role, content, type, output }) => {
    if (role === 'tool') return [textOf(content)];
    return type === 'function_call_output' ? [textOf(output)] : [];
  });
}

const textOf = (value: unknown): string => (typeof value === 'string' ? value : JSON.stringify(value));

const usage = { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 };

function chat(id: string, call: ToolCall | undefined, answer: string): unknown {
  const made = call && { name: call.name, arguments: JSON.stringify(call.arguments) };
  const message =
    made === undefined
      ? { role: 'assistant', content: answer }
      : { role: 'assistant', content: null, tool_calls: [{ id, type: 'function', function: made }] };
  const finish = made === undefined ? 'stop' : 'tool_calls';
  const choices = [{ index: 0, message, finish_reason: finish }];
  return { id: 'c1', object: 'chat.completion', created: 0, model: 'scripted', choices, usage };
}

function responses(id: string, call: ToolCall | undefined, answer: string): unknown {
  const text = { type: 'output_text', text: answer, annotations: [] };
  const item =
    call === undefined
      ? { id: 'm1', type: 'message', role: 'assistant', status: 'completed', content: [text] }
      : {
          id: `f${id}`,
          call_id: id,
          type: 'function_call',
          status: 'completed',
          name: call.name,
          arguments: JSON.stringify(call.arguments),
        };
  return {
    id: 'r1',
    object: 'response',
    created_at: 0,
    model: 'scripted',
    status: 'completed',
    output: [item],
    parallel_tool_calls: false,
    tool_choice: 'auto',
    tools: [],
    usage: {
      input_tokens: 3,
      input_tokens_details: { cached_tokens: 0 },
      output_tokens: 2,
      output_tokens_details: { reasoning_tokens: 0 },
      total_tokens: 5,
    },
  };
}
