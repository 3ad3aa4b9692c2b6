import { describe, expect, it } from 'vitest';
import { openaiDialect } from './openai.ts';

const METADATA = 'http://169.254.169.254/latest/meta-data/';
const PICTURE = 'data:image/png;base64,AAAA';
/** Checks the body with the first route that takes one of its members. */
function inspect(body: Record<string, unknown>, allowFields: readonly string[] = []) {
  const name = 'input' in body ? 'embeddings' : 'prompt' in body ? 'completions' : 'chat/completions';
  const route = openaiDialect.route('POST', `/v1/${name}`);
  if (!route.ok || route.value.kind !== 'inference') throw new Error(name);
  const whole = name === 'chat/completions' ? { messages: [], ...body } : body;
  return openaiDialect.inspect(route.value.operation, whole, { allowFields });
}

const message = (...content: unknown[]) => ({ messages: [{ role: 'user', content }] });

describe('inspect: refuses remote media, which the model server would fetch for the guest', () => {
  const remote: [string, Record<string, unknown>][] = [
    ['image_url', message({ type: 'image_url', image_url: { url: METADATA } })],
    ['image_url as a string', message({ type: 'image_url', image_url: METADATA })],
    ['video_url', message({ type: 'video_url', video_url: { url: METADATA } })],
    ['audio_url', message({ type: 'audio_url', audio_url: { url: METADATA } })],
    ['input_audio', message({ type: 'input_audio', input_audio: { data: METADATA } })],
    ['file_data', message({ type: 'file', file: { file_data: METADATA } })],
    ['file_id', message({ type: 'file', file: { file_id: 'file-1' } })],
    ['a file: URL', message({ type: 'image_url', image_url: { url: 'file:///etc/passwd' } })],
    ['a bare path', message({ type: 'image_url', image_url: { url: '/etc/passwd' } })],
    ['other capitals', message({ type: 'image_url', Image_URL: { URL: METADATA } })],
    ['a long s', message({ type: 'x', imageſ: [METADATA] })],
    ['audio', { messages: [{ role: 'assistant', audio: { id: 'x', data: METADATA } }] }],
    ['a predicted output', { prediction: { type: 'content', content: [{ image_url: METADATA }] } }],
    ['a tool call', { messages: [{ role: 'assistant', tool_calls: [{ extra_content: { a: METADATA } }] }] }],
    ['a scheme in capitals', message({ type: 'image_url', image_url: { url: 'HTTP://a/' } })],
    ['leading space', message({ type: 'image_url', image_url: { url: ` ${METADATA}` } })],
    ['an unknown part', message({ type: 'hologram', hologram: METADATA })],
    ['an unknown part with another scheme', message({ type: 'x', x: 's3://bucket/key' })],
    ['a list of pictures', { messages: [{ role: 'user', content: '', images: [METADATA] }] }],
    ['parts within parts', message({ type: 'tool_result', content: [{ image: METADATA }] })],
    ['tool messages', { messages: [{ role: 'tool', content: [{ image_url: METADATA }] }] }],
    ['embeddings input', { input: [{ image: METADATA }] }],
    ['the media cache', message({ type: 'image_url', uuid: 'x', image_url: { url: PICTURE } })],
    ['a top-level member', { messages: [], image_data: METADATA }],
  ];
  it.each(remote)('refuses remote media in %s', (_, body) => {
    expect(inspect(body)).toMatchObject({ ok: false, refusal: { status: 400 } });
  });

  const local: [string, Record<string, unknown>][] = [
    ['data: pictures', message({ type: 'image_url', image_url: { url: PICTURE } })],
    ['base64 audio', message({ type: 'input_audio', input_audio: { data: 'UklGRg==' } })],
    ['URLs in text', message({ type: 'text', text: METADATA })],
    ['URLs in plain content', { messages: [{ role: 'user', content: METADATA }] }],
    ['URLs in prompts', { prompt: [METADATA] }],
    ['URLs in embeddings input', { input: METADATA }],
    ['URLs in tool schemas', { tools: [{ function: { parameters: { url: METADATA } } }] }],
    ['URLs in response schemas', { response_format: { json_schema: { schema: { $id: METADATA } } } }],
    [
      'tool calls sent back',
      { messages: [{ role: 'assistant', tool_calls: [{ function: { name: 'f', arguments: '{}' } }] }] },
    ],
    ['citations sent back', { messages: [{ role: 'assistant', content: '', annotations: [{ url: METADATA }] }] }],
    ['JPEG in base64', message({ type: 'input_audio', input_audio: { data: '/9j/4AAQ' } })],
    ['a user label', { user: METADATA }],
  ];
  it.each(local)('accepts %s', (_, body) => {
    expect(inspect(body).ok).toBe(true);
  });

  it('estimates tokens of text and counts token ids, but not the bytes of images', () => {
    const value = (body: Record<string, unknown>) => {
      const result = inspect(body);
      return result.ok ? result.value.promptTokensEstimate : -1;
    };
    expect(value({ input: [[1, 2, 3], [4]] })).toBe(4);
    expect(value({ prompt: 'x'.repeat(40) })).toBe(10);
    const picture = { type: 'image_url', image_url: { url: `data:,${'A'.repeat(4000)}` } };
    expect(value(message(picture))).toBeLessThan(10);
  });
});
