import { describe, expect, it } from 'vitest';
import { packageOptions } from '../../sandbox/contract/schema/packages.ts';
import { lockEntries } from './lock-file.ts';

const A = 'a'.repeat(64);
const B = 'b'.repeat(64);
const HEX = '01'.repeat(64);

describe('lockEntries', () => {
  it.each([
    [
      'requirements.txt',
      `# c\n--index-url https://x\nsix==1.16 \\\n    --hash=sha256:${A} \\\n    --hash=sha256:${B}\n`,
      [`pip:six sha256:${A}`, `pip:six sha256:${B}`],
    ],
    [
      'dir/package-lock.json',
      JSON.stringify({
        packages: {
          '': { name: 'own' },
          'node_modules/@a/b': { integrity: `sha512-${Buffer.alloc(64, 1).toString('base64')}` },
          'node_modules/x/node_modules/alias': {
            name: 'real',
            integrity: `sha512-${Buffer.alloc(64, 1).toString('base64')}`,
          },
        },
      }),
      [`npm:@a/b sha512:${HEX}`, `npm:real sha512:${HEX}`],
    ],
    [
      'Cargo.lock',
      `version = 4\n\n[[package]]\nname = "own"\nversion = "1"\n\n[[package]]\nname = "itoa"\nversion = "1.0.0"\nchecksum = "${A}"\n`,
      [`cargo:itoa sha256:${A}`],
    ],
    [
      'uv.lock',
      `[[package]]\nname = "six"\nversion = "1"\nsdist = { url = "u", hash = "sha256:${A}", size = 3 }\nwheels = [\n    { url = "u", hash = "sha256:${B}", size = 3 },\n]\n`,
      [`pip:six sha256:${A}`, `pip:six sha256:${B}`],
    ],
  ])('%s', (name, text, entries) => {
    expect(lockEntries(name, text)).toEqual(entries);
    expect(packageOptions.safeParse({ ecosystems: ['pip'], lock: entries }).success).toBe(true);
  });

  it.each([
    ['requirements.txt', 'six==1.16\n', '"six==1.16" has no --hash'],
    ['requirements.txt', '', 'no file is locked'],
    ['package-lock.json', '{', 'invalid JSON'],
    ['package-lock.json', '{"dependencies":{}}', 'no packages of npm 7'],
    ['package-lock.json', '{"packages":[]}', 'no packages of npm 7'],
    ['package-lock.json', '{"packages":{"node_modules/a":{"name":1}}}', 'no packages of npm 7'],
    ['package-lock.json', '[]', 'no packages of npm 7'],
    ['Cargo.lock', '', 'no file is locked'],
  ])('%s %j is a usage error', (name, text, message) => {
    expect(() => lockEntries(name, text)).toThrow(message);
  });
});
