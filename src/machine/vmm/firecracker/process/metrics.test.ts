import { describe, expect, it } from 'vitest';
import { MetricsReader } from './metrics.ts';

const feed = (...chunks: string[]): MetricsReader => {
  const reader = new MetricsReader();
  for (const chunk of chunks) reader.push(Buffer.from(chunk));
  return reader;
};

describe('MetricsReader', () => {
  it('push: adds up counts since the last flush, wherever the text is cut', () => {
    const text = '{"vsock":{"rx_bytes_count":5,"conns_added":2}}\n{"vsock":{"rx_bytes_count":6}}\n';
    for (let at = 0; at <= text.length; at += 1) {
      const reader = feed(text.slice(0, at), text.slice(at));
      expect(reader.sum('vsock', 'rx_bytes_count')).toBe(11);
      expect(reader.sum('vsock', 'conns_added')).toBe(2);
    }
  });
  it('push: ignores invalid counts', () => {
    const reader = feed(
      'nonsense\n[]\nnull\n{"vsock":null}\n{"vsock":{"rx_bytes_count":"7"}}\n',
      '{"vsock":{"rx_bytes_count":-7,"tx_bytes_count":1e999}}\n{"other":{"x":1}}\n',
    );
    expect(reader.sum('vsock', 'rx_bytes_count')).toBe(0);
    expect(reader.sum('vsock', 'tx_bytes_count')).toBe(Number.MAX_SAFE_INTEGER);
    expect(reader.sum('other', 'x')).toBe(0);
  });
  it('push: drops a line that is too long, and counts the next', () => {
    const reader = new MetricsReader();
    const junk = Buffer.alloc(64 * 1024, 'x');
    for (let i = 0; i < 100; i += 1) reader.push(junk);
    reader.push(Buffer.from('"}\n{"net":{"rx_count":3}}\n'));
    expect(reader.sum('net', 'rx_count')).toBe(3);
  });
  it('next: resolves with the next line', async () => {
    const reader = feed('{"net":{"rx_count":1}}\n');
    const next = reader.next();
    reader.push(Buffer.from('{"net":{"rx_count":1}}\n'));
    await next;
    expect(reader.sum('net', 'rx_count')).toBe(2);
  });
});
