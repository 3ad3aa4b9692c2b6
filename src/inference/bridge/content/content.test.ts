import { createHash } from 'node:crypto';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, it } from 'vitest';
import { FairShare } from '../../../base/fairness/fair-share.ts';
import { AnswerText } from './answer-text.ts';
import { cleanText, withoutMedia } from './clean-text.ts';
import { CONTENT_LIMITS, CONTENT_MEMORY } from './content.ts';
import { redact } from './redact.ts';
import { requestContent } from './request-content.ts';

const KEY = 'sk-ant-api03-0123456789abcdefghij';
const JWT = 'eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJl';
const PEM = `-----BEGIN ${'RSA PRIVATE KEY'}-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----`;
const sha256 = (data: string | Buffer): string => createHash('sha256').update(data).digest('hex');

describe('redact', () => {
  it.each([
    [`key ${KEY}.`, 'key [redacted: API key]'],
    ['ghp_0123456789abcdefghij;', '[redacted: API key];'],
    ['AKIAIOSFODNN7EXAMPLE', '[redacted: API key]'],
    ['Authorization: Bearer abc123.def456-x', 'Authorization: [redacted: bearer token]'],
    [JWT, '[redacted: JWT]'],
    [`${PEM} after`, '[redacted: private key] after'],
    [`${PEM.slice(0, 50)}`, '[redacted: private key]'],
    ['ask a.b+c@mail.example.org!', 'ask [redacted: e-mail address]!'],
    ['4111 1111 1111 1111', '[redacted: card number]'],
    ['pay 1234 5555-5555-5555-4444 now', 'pay 1234 [redacted: card number] now'],
    ['378282246310005', '[redacted: card number]'],
  ])('%j', (text, clean) => expect(redact(text)).toBe(clean));

  it.each([
    'no secret here',
    'bearer authentication',
    'risk-averse-people-everywhere',
    '4111 1111 1111 1112',
    'order 1764406033000',
    'a @ b, @home, x@y',
  ])('leaves %j unchanged', (text) => expect(redact(text)).toBe(text));

  it('a part of a text shows no part of a secret that begins or ends outside of it', () => {
    const text = `before ${KEY} after`;
    for (let from = 0; from <= text.length; from += 1) {
      for (let to = from; to <= text.length; to += 1) {
        const part = redact(text, from, to);
        expect(part).not.toMatch(/sk-|api03|0123|6789|fghi/);
      }
    }
  });
});

describe('cleanText', () => {
  it('cuts in the middle, at whole characters, and says how much', () => {
    const text = '😀'.repeat(1000);
    for (const bytes of [99, 100, 101, 102, 103]) {
      const clean = cleanText(text, 'full', bytes);
      expect(clean.isCut).toBe(true);
      expect(clean.text).toMatch(/^(😀)+\[\d+ characters cut\](😀)+$/u);
      expect(Buffer.byteLength(clean.text)).toBeLessThanOrEqual(bytes + 30);
    }
  });

  it('drops the last word of a broken answer, which may be the beginning of a secret', () => {
    expect(cleanText('the key is sk-ant-a', 'redacted', 100, false).text).toBe('the key is ');
    expect(cleanText('the key is sk-ant-a', 'full', 100, false).text).toBe('the key is sk-ant-a');
  });

  it('shows no part of a secret where it cuts', () => {
    for (let at = 0; at < 80; at += 1) {
      const text = `${'x'.repeat(at)} ${KEY} ${'y '.repeat(400)}`;
      expect(cleanText(text, 'redacted', 80).text).not.toMatch(/sk-|0123|ghij/);
    }
  });
});

describe('media in texts', () => {
  const bytes = Buffer.alloc(3000, 7);
  const file = bytes.toString('base64');

  it('are replaced by their type, size and hash', () => {
    const said = `: 3000 bytes, sha256 ${sha256(bytes)}]`;
    expect(withoutMedia(`a ![x](data:image/png;base64,${file}) b`)).toBe(`a ![x]([image/png${said}) b`);
    expect(withoutMedia(file)).toBe(`[file${said}`);
  });
});

describe('requestContent', () => {
  it('has the newest messages, the beginning of the rest, and the hash of all', () => {
    const messages = Array.from({ length: 100 }, (_, n) => ({ content: `${n} ${'x'.repeat(2000)}`, role: 'user' }));
    const body = { model: 'm', tools: ['t '.repeat(25_000)], messages };
    const content = requestContent(body, 1, 'full');
    const kept = content?.body?.['messages'] as typeof messages;
    expect(kept.at(-1)).toEqual(messages.at(-1));
    expect(kept.length + (content?.omitted ?? 0)).toBe(100);
    expect(content?.cut).toBe(true);
    const bytes = Buffer.byteLength(JSON.stringify(content));
    expect(bytes).toBeLessThan(CONTENT_LIMITS.requestBytesMax * 1.1);
    expect(bytes).toBeGreaterThan(CONTENT_LIMITS.requestBytesMax * 0.7);
    expect(content?.sha256).toBe(sha256(JSON.stringify({ messages, model: 'm', tools: body.tools })));
  });

  it('contains what the content mode allows', () => {
    const body = { prompt: `mail a@b.example`, __proto__: 1, n: 1 };
    expect(requestContent(body, 9, 'off')).toBeUndefined();
    expect(requestContent(body, 9, 'hash')).toEqual({ bytes: 9, sha256: expect.any(String) });
    const redacted = requestContent(body, 9, 'redacted');
    expect(redacted).toEqual({ bytes: 9, body: { n: 1, prompt: 'mail [redacted: e-mail address]' } });
  });
});

describe('AnswerText', () => {
  const memory = (): FairShare => new FairShare(CONTENT_MEMORY);
  const answer = (mode: 'hash' | 'redacted' | 'full', parts: readonly string[], share = memory()) => {
    const text = new AnswerText(mode, share, 'a');
    for (const part of parts) text.text(0, part);
    const content = text.content(true);
    text.release();
    expect(share.held).toBe(0);
    return content;
  };

  it('joins parts that end within a secret or a character', () => {
    const text = `😀 ${KEY} 4111 1111 1111 1111 é ${JWT}`;
    const clean = redact(text);
    for (const size of [1, 2, 3, 7, 50]) {
      const parts = text.match(new RegExp(`[\\s\\S]{1,${size}}`, 'g')) ?? [];
      expect(answer('redacted', parts)?.choices).toEqual([{ text: clean }]);
      expect(answer('hash', parts)).toEqual({ sha256: sha256(text), characters: text.length });
    }
  });

  it('hashes all of a long text whose blocks end within a character, and keeps its beginning', () => {
    const text = `x${'😀'.repeat(100_000)}`;
    const content = answer('full', text.match(/[\s\S]{1,1001}/g) ?? []);
    expect(content?.sha256).toBe(sha256(text));
    expect(content?.cut).toBe(true);
    expect(text.startsWith(content?.choices?.[0]?.text.replace(/\[.*/, '') ?? '-')).toBe(true);
    expect(Buffer.byteLength(content?.choices?.[0]?.text ?? '')).toBeLessThan(CONTENT_LIMITS.answerBytesMax + 40);
  });

  it('keeps nothing without memory, says so, and holds nothing', () => {
    const full = new FairShare({ sumMax: 10, ownMax: 10, guaranteed: 0, places: 0 });
    expect(answer('redacted', ['hello'], full)).toEqual({ characters: 5, choices: [], cut: true });
  });

  it('bounds what a hostile server makes it keep', () => {
    const text = new AnswerText('full', memory(), 'a');
    for (let n = 0; n < 10_000; n += 1) {
      text.text(n, 'x'.repeat(100));
      text.call(0, `0 ${n}`, 'n'.repeat(100), 'y'.repeat(100));
    }
    const content = text.content(true);
    expect(content?.choices).toHaveLength(CONTENT_LIMITS.choicesMax);
    expect(content?.choices?.[0]?.toolCalls).toHaveLength(CONTENT_LIMITS.callsMax);
    expect(JSON.stringify(content).length).toBeLessThan(CONTENT_LIMITS.answerBytesMax * 1.5);
    text.release();
  });
});

it('an answer in many small parts takes no more memory than it holds', () => {
  setFlagsFromString('--expose-gc');
  const collect: () => void = runInNewContext('gc');
  const hold = { amount: 0, resize: () => true, release: () => undefined };
  const memory = { take: (_: string, amount: number) => ({ ...hold, amount }) };
  collect();
  const before = process.memoryUsage().heapUsed;
  const answers = Array.from({ length: 10 }, () => {
    const answer = new AnswerText('full', memory, 'sandbox-a');
    for (let n = 0; n < 60_000; n += 1) answer.text(0, String.fromCharCode(97 + (n % 26)));
    return answer;
  });
  collect();
  const each = (process.memoryUsage().heapUsed - before) / answers.length;
  expect(answers.map((answer) => answer.content(true)?.characters)).toContain(60_000);
  // 2 bytes per character are held; keeping all parts would take 2 MiB.
  expect(each).toBeLessThan(400_000);
});
