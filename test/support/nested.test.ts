import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { supportedFirecracker } from './nested.ts';

let home: string;
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'nv-nested-'));
});
afterEach(() => rmSync(home, { recursive: true }));

function put(dir: string, version: string): { firecracker: string; jailer: string } {
  mkdirSync(dir, { recursive: true });
  const paths = { firecracker: join(dir, 'firecracker'), jailer: join(dir, 'jailer') };
  for (const [path, name] of [
    [paths.firecracker, 'Firecracker'],
    [paths.jailer, 'Jailer'],
  ] as const) {
    writeFileSync(path, `#!/bin/sh\necho '${name} v${version}'\n`);
    chmodSync(path, 0o755);
  }
  return paths;
}

it('supportedFirecracker: variables, PATH, the cache of the home, then beside the checkout', () => {
  const env = { NEUROVISOR_HOME: home, PATH: join(home, 'bin') };
  const others = put(join(home, 'beside/1.16.1'), '1.16.1');
  expect(supportedFirecracker(env, join(home, 'beside'))).toEqual(others);
  const kept = put(join(home, 'cache/test-firecracker/1.16.1'), '1.16.1');
  const beside = join(home, 'beside');
  expect(supportedFirecracker(env, beside)).toEqual(kept);
  const ofPath = put(join(home, 'bin'), '1.17.0');
  expect(supportedFirecracker(env)).toEqual(ofPath);
  const named = put(join(home, 'named'), '1.16.2');
  const variables = { NEUROVISOR_FIRECRACKER: named.firecracker, NEUROVISOR_JAILER: named.jailer };
  expect(supportedFirecracker({ ...env, ...variables })).toEqual(named);
});

it('supportedFirecracker: without one, or with an old one, says what to do', () => {
  const env = { NEUROVISOR_HOME: home, PATH: join(home, 'bin') };
  expect(supportedFirecracker(env, home)).toContain(
    'set NEUROVISOR_FIRECRACKER and NEUROVISOR_JAILER',
  );
  put(join(home, 'bin'), '1.12.1');
  expect(supportedFirecracker(env)).toContain('version 1.12.1 is older than 1.16.1');
  writeFileSync(join(home, 'bin/firecracker'), 'no program');
  expect(supportedFirecracker(env)).toContain('does not start');
});
