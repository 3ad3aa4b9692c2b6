import { describe, expect, it } from 'vitest';
import { parseChat } from './openai-api.ts';
import { type ChatPlan, planChat } from './prompt.ts';

const tool = (name: string) => ({
  type: 'function',
  function: {
    name,
    description: `Does ${name}.\nAt length.`,
    parameters: {
      type: 'object',
      properties: { a: { type: 'array', items: { type: 'number' } }, b: { type: 'string' } },
      required: ['a'],
    },
  },
});
const user = { role: 'user', content: 'How much?' };
const called = [
  user,
  {
    role: 'assistant',
    content: null,
    tool_calls: [{ id: 'c', type: 'function', function: { name: 'sum', arguments: '{"a": [1]}' } }],
  },
  { role: 'tool', tool_call_id: 'c', content: '1' },
];

const plan = (more: object, chatTemplate: boolean): ChatPlan =>
  planChat(parseChat({ model: 'm', messages: [user], ...more }), chatTemplate);

function text(made: ChatPlan): string {
  if (made.prompt.kind === 'text') return made.prompt.text;
  if (made.prompt.kind === 'chat') return made.prompt.turns.map((turn) => turn.text).join('\n---\n');
  throw new Error('no text');
}

describe('planChat for an answer with a grammar', () => {
  it.each([true, false])('has no stops but those of the request (template: %s)', (chatTemplate) => {
    const stop = ['###'];
    expect(plan({ response_format: { type: 'json_object' }, stop }, chatTemplate).stops).toEqual(stop);
    expect(plan({ stop }, chatTemplate).stops.length).toBeGreaterThan(1);
  });
});

describe('planChat for a base model', () => {
  it('writes a transcript whose next line is the answer', () => {
    const made = plan({ messages: [{ role: 'system', content: 'Be kind.' }, user] }, false);
    expect(text(made)).toMatch(/^A conversation .*\nBe kind\.\n\nUser: .*\n\nUser: How much\?\nAssistant:$/s);
    expect(made).toMatchObject({ grammar: null, calls: false, trim: true, prefill: '' });
    expect(made.stops).toContain('\nUser:');
  });

  it('writes functions like code', () => {
    const made = plan({ tools: [tool('sum')] }, false);
    expect(text(made)).toContain('- sum(a: number[], b: string): Does sum.\n');
    expect(made.grammar?.onlyAfter).toBe('<');
  });

  it('answers after a result instead of calling again', () => {
    const made = plan({ messages: called, tools: [tool('sum')] }, false);
    expect(made.calls).toBe(false);
    expect(text(made)).toMatch(
      /Assistant: <tool_call>\n\{"name": "sum", "arguments": \{"a": \[1\]\}\}\n<\/tool_call>\nTool: 1\nAssistant:$/,
    );
  });
});

describe('planChat for a model with a chat template', () => {
  const turns = (made: ChatPlan) => (made.prompt.kind === 'chat' ? made.prompt.turns : []);

  it('leaves the wording to the template', () => {
    expect(turns(plan({}, true))).toEqual([{ role: 'user', text: 'How much?' }]);
  });

  it('describes tools after the system text, and shows calls and results', () => {
    const messages = [{ role: 'system', content: 'Be kind.' }, ...called];
    const [system, first, call, result] = turns(plan({ messages, tools: [tool('sum')] }, true));
    expect(system?.role).toBe('system');
    expect(system?.text).toMatch(/^Be kind\.\n\n# Tools\n.*"name":"sum"/s);
    expect(first).toEqual({ role: 'user', text: 'How much?' });
    expect(call?.text).toContain('<tool_call>\n{"name": "sum", "arguments": {"a": [1]}}');
    expect(result).toEqual({ role: 'user', text: '<tool_response>\n1\n</tool_response>' });
  });

  it('joins adjacent messages of one role, since templates require them to alternate', () => {
    const messages = [user, { role: 'user', content: 'Well?' }];
    expect(turns(plan({ messages }, true))).toEqual([{ role: 'user', text: 'How much?\nWell?' }]);
  });

  it('may call again after a result', () => {
    expect(plan({ messages: called, tools: [tool('sum')] }, true).calls).toBe(true);
  });
});

describe.each([true, false])('planChat, chat template %s', (chatTemplate) => {
  const two = [tool('sum'), tool('mean')];

  it.each([
    ['the only tool', { tools: two.slice(0, 1), tool_choice: 'required' }, 'sum", "arguments":'],
    [
      'the named tool',
      { tools: two, tool_choice: { type: 'function', function: { name: 'mean' } } },
      'mean", "arguments":',
    ],
    ['one of several', { tools: two, tool_choice: 'required' }, '{"name": "'],
  ])('begins the call of %s in the prompt', (_name, more, end) => {
    const made = plan(more, chatTemplate);
    expect(made.prefill.endsWith(end)).toBe(true);
    expect(made.grammar?.onlyAfter).toBeNull();
    const prompt = made.prompt.kind === 'chat' ? made.prompt.prefill : text(made);
    expect(prompt.endsWith(made.prefill)).toBe(true);
  });

  it('omits tools that may not be called, and forbids calls', () => {
    const made = plan({ tools: two, tool_choice: 'none' }, chatTemplate);
    expect(text(made)).not.toContain('mean');
    expect(made).toMatchObject({ calls: false });
    expect(made.grammar?.gbnf).not.toContain('mean');
  });

  it('binds the answer to a schema', () => {
    const json_schema = { schema: { const: 5 }, strict: true };
    const made = plan({ response_format: { type: 'json_schema', json_schema } }, chatTemplate);
    expect(made.grammar).toMatchObject({ onlyAfter: null });
    expect(made.grammar?.gbnf).toContain('r ::= "5"');
  });
});
