import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { explainSkopeo, runSkopeo } from './skopeo.ts';

const fatal = (text: string): string => `time="2026-11-28T08:00:00Z" level=fatal msg=${JSON.stringify(text)}\n`;

describe('explainSkopeo', () => {
  it.each([
    ['Error initializing source: reading manifest 3 in x: manifest unknown', 'image_not_found'],
    ['reading manifest latest in x: unauthorized: authentication required', 'unauthorized'],
    ['requested access to the resource is denied', 'unauthorized'],
    ['reading manifest: toomanyrequests: You have reached your pull rate limit', 'rate_limited'],
    ['received unexpected HTTP status: 429 Too Many Requests', 'rate_limited'],
    ['writing blob: write /x/dir-put-blob1: no space left on device', 'disk_full'],
    ['Digest did not match, expected sha256:aa, got sha256:bb', 'image_invalid'],
    ['pinging container registry: dial tcp: connection refused', 'registry_failed'],
    ['reading blob: unexpected EOF', 'registry_failed'],
    ['open /x/a.tar: no such file or directory', 'image_not_found'],
  ])('explainSkopeo: %s', (text, code) => {
    const failure = explainSkopeo(`level=warning msg="x"\n${fatal(text)}`, 'a:1');
    expect(failure).toMatchObject({ code, message: 'could not fetch a:1', cause: text });
    expect(failure.remedy).toBeTruthy();
  });

  it('explainSkopeo: explains empty output, and output without log lines', () => {
    expect(explainSkopeo('', 'a').cause).toBe('skopeo said nothing');
    expect(explainSkopeo('msg="\\u12"', 'a').cause).toBe('msg="\\u12"');
  });
});

it('runSkopeo: a cancel right after the call starts nothing', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'nv-skopeo-'));
  try {
    const aborter = new AbortController();
    const options = { signal: aborter.signal, program: 'touch', image: 'a' };
    const running = runSkopeo([join(dir, 'ran')], options);
    aborter.abort();
    await expect(running).rejects.toMatchObject({ code: 'cancelled' });
    expect(existsSync(join(dir, 'ran'))).toBe(false);
  } finally {
    rmSync(dir, { recursive: true });
  }
});
