import { describe, expect, it } from 'vitest';
import { openaiDialect as dialect } from './openai.ts';

describe('route', () => {
  it.each([
    ['POST', '/v1/chat/completions', 'chat'],
    ['POST', '/chat/completions', 'chat'],
    ['POST', '/v1/completions/', 'completions'],
    ['POST', '/v1/embeddings?api-version=1', 'embeddings'],
    ['POST', '/v1/audio/speech', 'speech'],
    ['POST', '/v1/audio/transcriptions', 'transcription'],
    ['POST', '/v1/audio/translations', 'translation'],
    ['POST', '/v1/rerank', 'rerank'],
    ['POST', '/rerank', 'rerank'],
    ['POST', '/v2/rerank', 'rerank'],
  ])('%s %s is %s', (method, url, name) => {
    expect(dialect.route(method, url)).toMatchObject({ ok: true, value: { kind: 'inference', operation: { name } } });
  });
  it('reads model names with slashes', () => {
    for (const url of ['/v1/models/org/name', '/v1/models/org%2Fname']) {
      expect(dialect.route('GET', url)).toEqual({ ok: true, value: { kind: 'model', id: 'org/name' } });
    }
    expect(dialect.route('GET', '/models')).toEqual({ ok: true, value: { kind: 'models' } });
  });
  it.each([
    ['TRACE', '/v1/chat/completions', 405],
    ['OPTIONS', '/v1/chat/completions', 405],
    ['GET', '/v1/chat/completions', 405],
    ['POST', '/v1/models', 405],
    ['OPTIONS', '*', 400],
    ['GET', 'http://169.254.169.254/v1/models', 400],
    ['GET', '//169.254.169.254/v1/models', 400],
    ['POST', '/v1/../v1/chat/completions', 404],
    ['POST', '/v1/%63hat/completions', 404],
    ['POST', '/v1//chat/completions', 404],
    ['POST', '/v1\\chat\\completions', 404],
    ['POST', '/v1/v1/chat/completions', 404],
    ['POST', '/V1/CHAT/completions', 404],
    ['POST', '/v1/chat/completions#x', 404],
    ['POST', '/v1/audio/voices', 404],
    ['POST', '/api/pull', 404],
    ['GET', '/metrics', 404],
    ['GET', '/', 404],
    ['GET', '/v1/models/%ff', 404],
    ['GET', `/v1/models/${'a'.repeat(300)}`, 404],
    ['GET', '/v1/constructor', 404],
  ])('%s %s gets %i', (method, url, status) => {
    expect(dialect.route(method, url)).toMatchObject({ ok: false, refusal: { status } });
  });
});

const operation = (name: string) => {
  const route = dialect.route('POST', `/v1/${name}`);
  if (!route.ok || route.value.kind !== 'inference') throw new Error(name);
  return route.value.operation;
};
const inspect = (body: Record<string, unknown>, policy = {}, name = 'chat/completions') =>
  dialect.inspect(operation(name), { messages: [], ...body }, policy);

describe('inspect', () => {
  it.each([
    ['a model that is not a string', { model: 1 }],
    ['a stream that is not a boolean', { stream: 'true' }],
    ['messages that are not a list', { messages: {} }],
    ['no messages', { messages: null }],
    ['tools that are not a list', { tools: {} }],
  ])('refuses %s', (_, body) => {
    expect(inspect(body)).toMatchObject({ ok: false, refusal: { status: 400 } });
  });
  it('requests usage only for streams, and hides it unless the client requested it', () => {
    const usage = (body: Record<string, unknown>) => {
      const result = inspect(body);
      return result.ok ? [result.value.hideUsage, result.value.edits] : result;
    };
    const edits = { stream_options: { include_usage: true } };
    expect(usage({})).toEqual([false, {}]);
    expect(usage({ stream: true })).toEqual([true, edits]);
    expect(usage({ stream: true, stream_options: null })).toEqual([true, edits]);
    expect(usage({ stream: true, stream_options: { include_usage: true } })).toEqual([false, {}]);
    expect(usage({ stream: true, stream_options: { include_usage: false, include_obfuscation: true } })).toEqual([
      true,
      { stream_options: { include_usage: true, include_obfuscation: true } },
    ]);
  });
  it('accepts token ids and base64 for embeddings, as the SDKs send them', () => {
    const body = { input: [[1, 2], [3]], encoding_format: 'base64' };
    expect(dialect.inspect(operation('embeddings'), body, {})).toMatchObject({
      ok: true,
      value: { stream: false, promptTokensEstimate: 3 },
    });
  });
});

describe('errors', () => {
  const refusal = { status: 429, code: 'c', message: 'm' };
  it('have the form of OpenAI’s API', () => {
    expect(JSON.parse(dialect.error(refusal))).toEqual({
      error: { message: 'm', type: 'rate_limit_error', param: null, code: 'c' },
    });
  });
  it('are one event in a stream', () => {
    expect(dialect.errorEvent(refusal)).toBe(`data: ${dialect.error(refusal)}\n\n`);
  });
});
