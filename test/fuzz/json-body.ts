/** A request's JSON: read as the strictest server reads it, and an edit changes nothing else. */
import { openaiDialect } from '../../src/inference/bridge/dialect/openai/openai.ts';
import { editJson, isJsonObject, parseJsonBody } from '../../src/inference/bridge/json-body.ts';
import { must, target } from './target.ts';

const limits = (more: number) => ({
  jsonDepthMax: 20 + more,
  jsonContainersMax: 200 + more,
  jsonValuesMax: 400 + more,
  jsonKeysMax: 300 + more,
  jsonMembersMax: 300 + more,
});
const CHANGES = { model: 'm', stream_options: { include_usage: true } };

export const jsonBody = target(
  'json-body',
  (bytes) => {
    const parsed = parseJsonBody(bytes, limits(0));
    if (!parsed.ok) return;
    const { value } = parsed.value;
    const own: unknown = JSON.parse(bytes.toString('utf8'));
    must(isJsonObject(own) && JSON.stringify(own) === JSON.stringify(value), 'read differently');
    must(colonsIn(bytes.toString('utf8')) === keysIn(value), 'a key occurs twice');
    const after = Buffer.concat(editJson(bytes, parsed.value.layout, CHANGES));
    const edited: unknown = JSON.parse(after.toString('utf8'));
    must(isJsonObject(edited), 'an edit is no object');
    must(JSON.stringify(sorted(edited)) === JSON.stringify(sorted({ ...own, ...CHANGES })), 'an edit changes more');
    must(parseJsonBody(after, limits(9)).ok, 'an edited body is refused');
    for (const url of ['/v1/chat/completions', '/v1/completions', '/v1/embeddings']) {
      const route = openaiDialect.route('POST', url);
      if (route.ok && route.value.kind === 'inference')
        must(typeof openaiDialect.inspect(route.value.operation, value, {}).ok === 'boolean', 'ok');
    }
  },
  {
    seeds: [
      '{"model":"a","messages":[{"role":"user","content":"hi"}],"stream":true,"temperature":0.5}',
      '{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}}]}],"model":"\\u0061"}',
      '{"model":"a","prompt":["x",[1,2]],"max_tokens":3,"stop":["\\n"]}',
      '{"model":"a","input":"x","encoding_format":"base64"}',
      '{"model":"a","messages":[],"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}],"tool_choice":"auto"}',
      '{ "a" : { "a" : 1 , "b" : [ ] } , "\\u0061b" : "\\\\" }',
    ],
  },
);

/** Each key of the text has one, strings aside. */
function colonsIn(text: string): number {
  return text.replaceAll(/"(?:[^"\\]|\\.)*"/gs, '').replaceAll(/[^:]/gs, '').length;
}

function keysIn(value: unknown): number {
  if (typeof value !== 'object' || value === null) return 0;
  const own = Array.isArray(value) ? 0 : Object.keys(value).length;
  return Object.values(value).reduce<number>((sum, each) => sum + keysIn(each), own);
}

/** With keys in one order at the top; `__proto__` is a key like others. */
function sorted(object: Readonly<Record<string, unknown>>): readonly unknown[] {
  return Object.entries(object).sort(([a], [b]) => (a < b ? -1 : 1));
}
