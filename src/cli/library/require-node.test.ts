import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { PACKAGE_DIR } from '../../base/package-dir.ts';
import { NODE_MIN, requireNode } from './require-node.ts';

const root = PACKAGE_DIR;
/** As if this Node were another version. */
const pretending = (version: string): string[] => [
  '--import',
  `data:text/javascript,Object.defineProperty(process,"versions",{value:{...process.versions,node:"${version}"}})`,
];
const node = (...args: readonly string[]) => promisify(execFile)(process.execPath, args);

describe('requireNode', () => {
  it('refuses what the package refuses, and nothing newer', () => {
    const { engines } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
    expect(engines).toEqual({ node: `>=${NODE_MIN}` });
    expect(() => requireNode('24.5.0')).not.toThrow();
    expect(() => requireNode('100.1.0')).not.toThrow();
    expect(() => requireNode('24.10.0')).not.toThrow();
    expect(() => requireNode('24.4.1')).toThrow('needs Node 24.5 or newer; this is 24.4.1');
    expect(() => requireNode('23.11.1')).toThrow('needs Node 24.5 or newer; this is 23.11.1');
  });

  it('the library on an older Node: says what it needs', async () => {
    const library = join(root, 'src/index.ts');
    await expect(node(...pretending('20.11.0'), library)).rejects.toMatchObject({
      stderr: expect.stringContaining('neurovisor needs Node 24.5 or newer; this is 20.11.0'),
    });
  });

  it('npm install of a checkout on an older Node: says what it needs', async () => {
    const prepare = join(root, 'tools/prepare.mjs');
    await expect(node(...pretending('20.11.0'), prepare)).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/needs Node 24\.5 or newer; this is 20\.11\.0\nfix: /),
    });
  });
});
