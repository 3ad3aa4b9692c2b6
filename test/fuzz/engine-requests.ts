/** Requests to the built-in engine: read or refused with a typed error, schemas and tools compile or are refused. */
import { EngineError } from '../../src/inference/engine/errors.ts';
import { callGrammar, schemaGrammar } from '../../src/inference/engine/grammar.ts';
import { parseChat, parseCompletion, parseEmbedding } from '../../src/inference/engine/openai-api.ts';
import { must, target } from './target.ts';

export const engineRequests = target(
  'engine-requests',
  (bytes) => {
    let body: unknown;
    try {
      body = JSON.parse(bytes.toString('utf8'));
    } catch {
      return;
    }
    typed(() => parseCompletion(body));
    typed(() => parseEmbedding(body));
    const chat = typed(() => parseChat(body));
    if (chat?.format.kind === 'schema') {
      const { schema, strict } = chat.format;
      mustBeWhole(typed(() => schemaGrammar(schema, strict)));
    }
    const tools = chat?.tools ?? [];
    if (tools.length > 0) mustBeWhole(typed(() => callGrammar(tools, 'nothing')));
  },
  {
    seeds: [
      '{"model":"m","messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_schema","json_schema":{"name":"n","strict":true,"schema":{"type":"object","properties":{"a":{"type":"string","enum":["b"]},"c":{"type":"array","items":{"type":"integer","minimum":1,"maximum":9}}},"required":["a"],"additionalProperties":false}}}}',
      '{"model":"m","messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"$ref":"#/$defs/d","$defs":{"d":{"anyOf":[{"const":1},{"type":"null"},{"$ref":"#"}]}}}}}}',
      '{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"x"}]}],"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"x":{"type":"number"}}}}}],"tool_choice":{"type":"function","function":{"name":"f"}}}',
      '{"model":"m","prompt":["a"],"max_tokens":1,"stop":["x"],"temperature":0,"seed":1}',
      '{"model":"m","input":[[1,2]],"encoding_format":"base64","dimensions":3}',
    ],
  },
);

/** Every rule that is named is there, once, and nothing ends a literal early. */
function mustBeWhole(grammar: string | undefined): void {
  if (grammar === undefined) return;
  const bare = grammar.replace(/"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]/g, ' ');
  must(!/["\]]/.test(bare), `a literal has no end: ${grammar}`);
  const rules = bare.split('\n').filter((line) => line !== '');
  const names = rules.map((line) => /^([a-zA-Z0-9-]+) ::=/.exec(line)?.[1]);
  must(
    names.every((name) => name !== undefined),
    `no rule: ${bare}`,
  );
  must(new Set(names).size === names.length, `a rule is there twice: ${names.join()}`);
  for (const [word] of bare.replace(/\{[\d,]*\}|::=/g, ' ').matchAll(/[a-zA-Z][a-zA-Z0-9-]*/g))
    must(names.includes(word), `no rule ${word}`);
}

function typed<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch (error) {
    must(error instanceof EngineError, `not an EngineError: ${String(error)}`);
    return undefined;
  }
}
