import { createHash } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { type Offered, supportedFirecracker } from './firecracker-programs.ts';

let home: string;
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'nv-nested-'));
});
afterEach(() => rmSync(home, { recursive: true }));

const none: Offered = { dir: '/nonexistent', sha256: { firecracker: '', jailer: '' } };

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

function offer(version: string): Offered {
  const dir = join(home, 'beside');
  const { firecracker, jailer } = put(dir, version);
  const digest = (path: string) => createHash('sha256').update(readFileSync(path)).digest('hex');
  return { dir, sha256: { firecracker: digest(firecracker), jailer: digest(jailer) } };
}

const kept = () => join(home, 'cache/test-firecracker/1.16.1');

it('supportedFirecracker: variables, then PATH, then the cache of the home', () => {
  const env = { NEUROVISOR_HOME: home, PATH: join(home, 'bin') };
  const cached = put(kept(), '1.16.1');
  expect(supportedFirecracker(env, offer('1.16.5'))).toEqual(cached);
  const ofPath = put(join(home, 'bin'), '1.17.0');
  expect(supportedFirecracker(env, none)).toEqual(ofPath);
  const named = put(join(home, 'named'), '1.16.2');
  const variables = { NEUROVISOR_FIRECRACKER: named.firecracker, NEUROVISOR_JAILER: named.jailer };
  expect(supportedFirecracker({ ...env, ...variables }, none)).toEqual(named);
});

it('supportedFirecracker: copies programs beside the checkout into the cache', () => {
  const offered = offer('1.16.1');
  const paths = { firecracker: join(kept(), 'firecracker'), jailer: join(kept(), 'jailer') };
  expect(supportedFirecracker({ NEUROVISOR_HOME: home }, offered)).toEqual(paths);
  rmSync(offered.dir, { recursive: true });
  expect(supportedFirecracker({ NEUROVISOR_HOME: home }, offered)).toEqual(paths);
});

it('supportedFirecracker: refuses programs with another digest, and caches nothing', () => {
  const { dir, sha256 } = offer('1.16.1');
  const offered = { dir, sha256: { ...sha256, jailer: 'another' } };
  expect(supportedFirecracker({ NEUROVISOR_HOME: home }, offered)).toContain('jailer has the digest');
  expect(existsSync(kept())).toBe(false);
  expect(readdirSync(join(home, 'cache/test-firecracker'))).toEqual([]);
});

it('supportedFirecracker: without Firecracker, or with an old one, names the remedy', () => {
  const env = { NEUROVISOR_HOME: home, PATH: join(home, 'bin') };
  expect(supportedFirecracker(env, none)).toContain('set NEUROVISOR_FIRECRACKER and NEUROVISOR_JAILER');
  put(join(home, 'bin'), '1.12.1');
  expect(supportedFirecracker(env, none)).toContain('version 1.12.1 is older than 1.16.1');
  writeFileSync(join(home, 'bin/firecracker'), 'no program');
  expect(supportedFirecracker(env, none)).toContain('does not start');
});
