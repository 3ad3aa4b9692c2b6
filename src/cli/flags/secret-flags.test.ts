import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseSecrets } from './secret-flags.ts';

const env = { API_KEY: 'from the environment' };

describe('parseSecrets', () => {
  it('reads values from the environment and from files, without the final newline', () => {
    const folder = mkdtempSync(join(tmpdir(), 'nv-secret-'));
    const file = join(folder, 'key=1');
    writeFileSync(file, 'from a file\r\n');
    expect(parseSecrets(['API_KEY@a.example,b.example', `B@c.example=${file}`], env)).toEqual([
      { name: 'API_KEY', hosts: ['a.example', 'b.example'], value: 'from the environment' },
      { name: 'B', hosts: ['c.example'], value: 'from a file' },
    ]);
    const both = parseSecrets([`B@c.example:443,d.example:header=X-A=${file}`], env);
    expect(both).toMatchObject([{ hosts: ['c.example:443', 'd.example'], places: [{ in: 'header', name: 'X-A' }] }]);
    rmSync(folder, { recursive: true });
  });
  it('without a value, names the stored secret', () => {
    expect(parseSecrets(['OTHER@a.example'], env)).toEqual([{ name: 'OTHER', hosts: ['a.example'], stored: 'OTHER' }]);
  });
  it('reads the places of a secret', () => {
    const [secret] = parseSecrets(['API_KEY@a.example:header=Authorization,query=key'], env);
    expect(secret?.hosts).toEqual(['a.example']);
    expect(secret?.places).toEqual([
      { in: 'header', name: 'Authorization' },
      { in: 'query', name: 'key' },
    ]);
  });
  it.each([
    'API_KEY',
    'API_KEY@a.example:body=x',
    'API_KEY@a.example:header',
    'API_KEY@a.example:header=',
    'API_KEY@a.example:header=X,b.example',
    'API_KEY@a.example:query=k:query=l',
    'API_KEY=sk-live-1',
    '@a.example',
    'API_KEY@',
    'API_KEY@a.example=/no/such/file',
  ])('rejects %j with the syntax, and never prints a value', (text) => {
    expect(() => parseSecrets([text], env)).toThrow(
      expect.objectContaining({ remedy: expect.stringContaining('NAME@') }),
    );
    expect(() => parseSecrets([text], env)).not.toThrow(/sk-live/);
  });
  it('rejects a repeated name', () => {
    expect(() => parseSecrets(['API_KEY@a.example', 'API_KEY@b.example'], env)).toThrow('twice');
  });
});
