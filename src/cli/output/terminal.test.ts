import { describe, expect, it } from 'vitest';
import { EscapeFilter } from './terminal.ts';

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const text = (data: Uint8Array): string => new TextDecoder().decode(data);

describe('EscapeFilter', () => {
  it('passes on all other keys, including Ctrl-C', () => {
    const filter = new EscapeFilter();
    expect(text(filter.receive(bytes('ls\r\x03')).forGuest)).toBe('ls\r\x03');
  });

  it.each(['q', 'Q'])('Ctrl-] %s leaves, even if the keys arrive separately', (key) => {
    expect(new EscapeFilter().receive(bytes(`ab\x1d${key}cd`))).toMatchObject({ leave: true });
    const filter = new EscapeFilter();
    expect(filter.receive(bytes('\x1d'))).toMatchObject({ leave: false });
    expect(filter.receive(bytes(key))).toMatchObject({ leave: true });
  });

  it('passes on what was typed before leaving', () => {
    expect(text(new EscapeFilter().receive(bytes('ab\x1dq')).forGuest)).toBe('ab');
  });

  it('Ctrl-] twice sends one Ctrl-]', () => {
    expect(text(new EscapeFilter().receive(bytes('\x1d\x1d')).forGuest)).toBe('\x1d');
  });

  it('Ctrl-] and another key shows the help and sends nothing', () => {
    const result = new EscapeFilter().receive(bytes('\x1dx'));
    expect(result).toEqual({ forGuest: new Uint8Array(), leave: false, help: true });
  });
});
