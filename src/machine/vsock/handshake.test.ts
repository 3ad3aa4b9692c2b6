import { describe, expect, it } from 'vitest';
import { okLine, parseConnectLine } from './handshake.ts';

const parse = (text: string) => parseConnectLine(Buffer.from(text, 'latin1'));

describe('parseConnectLine', () => {
  it('consumes exactly the line and leaves the payload', () => {
    expect(parse('CONNECT 5000\nGET /')).toEqual({ kind: 'connect', port: 5000, lineBytes: 13 });
  });

  it('waits for the rest of a partial line', () => {
    for (const text of ['', 'C', 'CONNECT 5000', 'CONNECT ', 'nonsense'])
      expect(parse(text)).toEqual({ kind: 'incomplete' });
  });

  it.each([
    ['lower case', 'connect 1\n'],
    ['carriage return', 'CONNECT 1\r\n'],
    ['two blanks', 'CONNECT  1\n'],
    ['no port', 'CONNECT \n'],
    ['leading zero', 'CONNECT 01\n'],
    ['sign', 'CONNECT +1\n'],
    ['hexadecimal', 'CONNECT 0x10\n'],
    ['port 2³² − 1, which means "any"', 'CONNECT 4294967295\n'],
    ['port beyond 32 bits', 'CONNECT 9999999999\n'],
    ['empty line', '\n'],
    ['64 bytes without a line feed', 'C'.repeat(64)],
    ['a line of 65 bytes', `CONNECT ${'1'.repeat(56)}\n`],
    ['zero byte', 'CONNECT 1\0\n'],
  ])('refuses %s', (_name, text) => {
    expect(parse(text).kind).toBe('invalid');
  });

  it('accepts the highest port', () => {
    expect(parse('CONNECT 4294967294\n')).toMatchObject({ kind: 'connect', port: 4294967294 });
  });
});

describe('okLine', () => {
  it('names our port', () => {
    expect(Buffer.from(okLine(1073741824)).toString()).toBe('OK 1073741824\n');
  });
});
