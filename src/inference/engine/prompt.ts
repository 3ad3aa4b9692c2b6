/**
 * Turns a conversation into a prompt, and decides how to read the answer.
 *
 * A model with a chat template gets turns (`backend.ts` renders them), with tools described in the form that Hermes and
 * Qwen models were trained on. A base model only continues text: it gets a transcript with a few examples, whose next
 * line is the answer.
 */
import type { GrammarUse, Prompt, Turn } from './backend.ts';
import {
  BASE_MODEL_BOUNDS,
  type Bounds,
  CALL_BETWEEN,
  CALL_CLOSE,
  CALL_OPEN,
  callGrammar,
  jsonObjectGrammar,
  NO_CALL_GRAMMAR,
  schemaGrammar,
  UNBOUNDED,
} from './grammar.ts';
import type { ChatRequest, Message, Tool } from './openai-api.ts';

export interface ChatPlan {
  readonly prompt: Prompt;
  readonly prefill: string;
  readonly stops: readonly string[];
  readonly grammar: GrammarUse | null;
  readonly calls: boolean;
  readonly trim: boolean;
}

/** @throws EngineError `bad_request` if a schema is not supported */
export function planChat(request: ChatRequest, chatTemplate: boolean): ChatPlan {
  const tools = offeredTools(request, chatTemplate);
  const bounds = chatTemplate ? UNBOUNDED : BASE_MODEL_BOUNDS;
  const forced = forcedCall(request, tools, bounds);
  const prefill = forced?.prefill ?? '';
  const transcript = chatTemplate ? null : baseTranscript(request, tools);
  const grammar = forced?.grammar ?? freeGrammar(request, tools, bounds);
  return {
    prompt:
      transcript === null
        ? {
            kind: 'chat',
            turns: templateTurns(request.messages, request.toolChoice === 'none' ? [] : request.tools),
            prefill,
          }
        : { kind: 'text', text: prefill === '' ? transcript : `${transcript} ${prefill}` },
    prefill,
    stops: [...request.stops, ...ownStops(grammar, chatTemplate)],
    grammar,
    calls: tools.length > 0,
    trim: !chatTemplate || request.tools.length > 0,
  };
}

/** A grammar ends its answer itself; a stop string could occur inside its JSON. */
function ownStops(grammar: GrammarUse | null, chatTemplate: boolean): readonly string[] {
  if (grammar?.onlyAfter === null) return [];
  return chatTemplate ? TEMPLATE_STOPS : BASE_STOPS;
}

function offeredTools(request: ChatRequest, chatTemplate: boolean): readonly Tool[] {
  const { toolChoice, tools } = request;
  if (toolChoice === 'none') return [];
  if (typeof toolChoice === 'object') return tools.filter((one) => one.name === toolChoice.name);
  // A base model would repeat the call in its prompt, so after a result it must answer.
  const answered = request.messages.at(-1)?.role === 'tool';
  return toolChoice === 'auto' && answered && !chatTemplate ? [] : tools;
}

/** Begins a required call in the prompt: reading its fixed text is far faster than writing it. */
function forcedCall(
  request: ChatRequest,
  tools: readonly Tool[],
  bounds: Bounds,
): { prefill: string; grammar: GrammarUse } | null {
  const { toolChoice } = request;
  if (toolChoice === 'auto' || toolChoice === 'none') return null;
  const only = tools.length === 1 ? tools[0] : undefined;
  return only === undefined
    ? { prefill: CALL_OPEN, grammar: { gbnf: callGrammar(tools, 'open', bounds), onlyAfter: null } }
    : {
        prefill: CALL_OPEN + only.name + CALL_BETWEEN,
        grammar: { gbnf: callGrammar(tools, 'name', bounds), onlyAfter: null },
      };
}

function freeGrammar(request: ChatRequest, tools: readonly Tool[], bounds: Bounds): GrammarUse | null {
  if (tools.length > 0) return { gbnf: callGrammar(tools, 'nothing', bounds), onlyAfter: '<' };
  switch (request.format.kind) {
    case 'text':
      // A model that sees tools but may not call one must not write a call as text.
      return request.tools.length > 0 ? { gbnf: NO_CALL_GRAMMAR, onlyAfter: '<' } : null;
    case 'json':
      return { gbnf: jsonObjectGrammar(bounds), onlyAfter: null };
    case 'schema':
      return { gbnf: schemaGrammar(request.format.schema, request.format.strict, bounds), onlyAfter: null };
  }
}

// ── Models with a chat template ──────────────────────────────────────────────────────────────────

/** A small model that was not trained with tools may continue with the other side's lines. */
const TEMPLATE_STOPS = ['<tool_response>', '</tool_response>'];

function templateTurns(messages: readonly Message[], tools: readonly Tool[]): Turn[] {
  const turns: { role: Turn['role']; text: string }[] = [];
  const first = messages[0]?.role === 'system' ? 1 : 0;
  const system = messages.slice(0, first).map((one) => one.text);
  if (tools.length > 0) system.push(toolInstructions(tools));
  if (system.length > 0) turns.push({ role: 'system', text: system.join('\n\n') });
  for (const message of messages.slice(first)) {
    const role = message.role === 'tool' ? 'user' : message.role;
    const text = messageText(message);
    const last = turns.at(-1);
    // Most templates require alternating roles, and system text only at the beginning.
    if (last?.role === role) last.text = `${last.text}\n${message.role === 'system' ? '\n' : ''}${text}`;
    else turns.push({ role, text });
  }
  return turns;
}

/** The system text that Hermes 2 Pro introduced and Qwen 2.5 and 3 use. */
function toolInstructions(tools: readonly Tool[]): string {
  const signatures = tools.map((tool) =>
    JSON.stringify({
      type: 'function',
      function: { name: tool.name, description: tool.description, parameters: tool.parameters },
    }),
  );
  return [
    '# Tools',
    'You may call a function to assist with the user query. You are provided with function',
    'signatures within <tools></tools> XML tags:',
    '<tools>',
    ...signatures,
    '</tools>',
    'For a function call, return a json object with function name and arguments within',
    '<tool_call></tool_call> XML tags:',
    '<tool_call>',
    '{"name": <function-name>, "arguments": <args-json-object>}',
    '</tool_call>',
  ].join('\n');
}

function messageText(message: Message): string {
  if (message.role === 'tool') return `<tool_response>\n${message.text}\n</tool_response>`;
  return [message.text, ...message.calls.map(callText)].filter((part) => part !== '').join('\n');
}

function callText(call: Message['calls'][number]): string {
  return `${CALL_OPEN}${call.name}${CALL_BETWEEN} ${call.arguments}${CALL_CLOSE}`;
}

// ── Base models ──────────────────────────────────────────────────────────────────────────────────

/** Line beginnings at which a base model would continue with the other side of the conversation. */
const BASE_STOPS = ['\nUser:', '\nAssistant:', '\nTool:', '\nSystem:', '\n\n'];

const BASE_INTRODUCTION =
  'A conversation between a user and a helpful assistant. The answers are short, correct and friendly.';

const BASE_EXAMPLES = [
  'User: What is the capital of Italy?\nAssistant: The capital of Italy is Rome.',
  'User: Give me a tip for sleeping well.\nAssistant: Go to bed at the same time each night and keep your room dark and cool.',
];

/** One of each kind: a call with a list, an answer to its result, a call with names, no call. */
const BASE_TOOL_EXAMPLES = [
  `User: Which is the largest of 4, 19, 6 and 2?\nAssistant: ${exampleCall('max', '{"values": [4, 19, 6, 2]}')}\nTool: 19\nAssistant: The largest is 19.`,
  `User: Will it rain in Oslo tomorrow?\nAssistant: ${exampleCall('forecast', '{"city": "Oslo", "days": 1}')}\nTool: {"rain": true, "degrees": 8}\nAssistant: Yes, it will rain in Oslo, at 8 degrees.`,
  'User: Hello!\nAssistant: Hello! How can I help you?',
  'User: Who painted the Mona Lisa?\nAssistant: Leonardo da Vinci painted the Mona Lisa.',
];

function exampleCall(name: string, args: string): string {
  return callText({ name, arguments: args });
}

/** Ends with `Assistant:`, without a space, since tokens of words begin with one. */
function baseTranscript(request: ChatRequest, tools: readonly Tool[]): string {
  const system = request.messages.filter((one) => one.role === 'system').map((one) => one.text);
  const usesTools = request.tools.length > 0 || request.messages.some((one) => one.calls.length > 0);
  const lines = [BASE_INTRODUCTION, ...system];
  if (tools.length > 0) lines.push('', 'Functions:', ...tools.map(signature));
  if (request.format.kind !== 'text') lines.push('The answer is written as JSON.');
  const examples = usesTools ? BASE_TOOL_EXAMPLES : BASE_EXAMPLES;
  const spoken = request.messages.filter((one) => one.role !== 'system').map(baseLine);
  return [lines.join('\n'), ...examples, `${spoken.join('\n')}\nAssistant:`].join('\n\n');
}

function baseLine(message: Message): string {
  const speaker = { system: 'System', user: 'User', assistant: 'Assistant', tool: 'Tool' }[message.role];
  const text = [message.text, ...message.calls.map(callText)].filter((part) => part !== '').join('\n');
  return `${speaker}: ${text}`;
}

/** `mean(numbers: number[]): the mean of numbers`, a form that a base model knows from code. */
function signature(tool: Tool): string {
  const schema = typeof tool.parameters === 'object' ? tool.parameters : {};
  const properties = schema['properties'];
  const names = typeof properties === 'object' && properties !== null ? Object.entries(properties) : [];
  const list = names.map(([name, value]) => `${name}: ${typeName(value)}`).join(', ');
  const about = tool.description.split('\n', 1)[0] ?? '';
  return `- ${tool.name}(${list})${about === '' ? '' : `: ${about}`}`;
}

function typeName(schema: unknown): string {
  if (typeof schema !== 'object' || schema === null || !('type' in schema)) return 'any';
  if (schema.type === 'array' && 'items' in schema) return `${typeName(schema.items)}[]`;
  return typeof schema.type === 'string' ? schema.type : 'any';
}
