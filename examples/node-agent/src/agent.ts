/**
 * A Node agent in TypeScript: the model calls a tool, the tool runs in the sandbox, the answer is streamed.
 * Node runs the sources as they are; `OPENAI_BASE_URL` and `OPENAI_API_KEY` are set in the sandbox.
 */
import os from 'node:os';
import OpenAI from 'openai';
import type { ChatCompletionMessageParam } from 'openai/resources/chat/completions';
import { runTool, tools } from './tools.ts';

const question = process.argv.slice(2).join(' ') || 'Count the prime numbers below 100000.';
const client = new OpenAI();
const model = process.env.NEUROVISOR_MODEL ?? (await client.models.list()).data[0]?.id;
if (model === undefined) throw new Error('the host offers no model');

const cards = Object.keys(os.networkInterfaces());
console.log(`guest    Node ${process.version} on Linux ${os.release()}`);
console.log(`network  ${cards.join(' ')}`);
console.log(`model    ${model} at ${client.baseURL}`);
console.log(`\nuser     ${question}`);

const messages: ChatCompletionMessageParam[] = [
  { role: 'system', content: 'Use the result of the tool and answer in one short sentence.' },
  { role: 'user', content: question },
];
const settings = { model, temperature: 0, max_tokens: 120 } as const;

// The first step must be a call, so that small models do not guess.
const first = await client.chat.completions.create({ ...settings, messages, tools, tool_choice: 'required' });
const reply = first.choices[0]?.message;
if (reply === undefined) throw new Error('the model did not answer');
messages.push(reply);
for (const call of reply.tool_calls ?? []) {
  if (call.type !== 'function') continue;
  const { name, arguments: json } = call.function;
  const result = runTool(name, json);
  console.log(`tool     ${name}(${json}) = ${result}`);
  messages.push({ role: 'tool', tool_call_id: call.id, content: result });
}

process.stdout.write('agent    ');
const stream = await client.chat.completions.create({
  ...settings,
  messages,
  tools,
  tool_choice: 'none',
  stream: true,
});
for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta.content ?? '');
process.stdout.write('\n');
