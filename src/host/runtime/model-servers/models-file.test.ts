import { execFileSync } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readConfig } from '../../../base/config.ts';
import { describeError } from '../../../base/errors.ts';
import { readModelsFile } from './models-file.ts';

const KEY = 'sk-very-secret';
let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-models-file-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const write = (name: string, text: string, mode = 0o600): void => {
  writeFileSync(join(dir, name), text);
  chmodSync(join(dir, name), mode);
};
const upstream = (more: string): string => `[upstreams.a]\nurl = "http://127.0.0.1:1"\n${more}\n`;
const read = (more: Record<string, string> = {}, env: Record<string, string> = {}): ReturnType<typeof readModelsFile> =>
  readModelsFile(readConfig({ NEUROVISOR_HOME: dir, ...more }), env);

describe('readModelsFile', () => {
  it('is null without a file, or if a server is configured otherwise', () => {
    expect(read()).toBeNull();
    write('models.toml', 'not TOML');
    expect(read({ NEUROVISOR_UPSTREAM: 'engine' })).toBeNull();
    expect(read({ NEUROVISOR_UPSTREAM: 'http://127.0.0.1:1' })).toBeNull();
  });

  it('refuses a requested file that is missing, and both settings at once', () => {
    const missing = join(dir, 'other.toml');
    expect(() => read({ NEUROVISOR_MODELS: missing })).toThrow(/other\.toml does not exist/);
    const both = { NEUROVISOR_MODELS: missing, NEUROVISOR_UPSTREAM: 'engine' };
    expect(() => read(both)).toThrow(/are both set/);
  });

  it('reads keys from files beside it and from the environment', () => {
    write('key', `${KEY}\n`);
    write('models.toml', upstream('key = { file = "key" }'));
    expect(read()?.upstreams[0]?.target.apiKey).toBe(KEY);
    write('models.toml', upstream('key = { env = "THE_KEY" }'));
    expect(read({}, { THE_KEY: KEY })?.upstreams[0]?.target.apiKey).toBe(KEY);
    write('models.toml', upstream(''));
    expect(read()?.upstreams[0]?.target).not.toHaveProperty('apiKey');
  });

  it.each([
    ['a key that others can read', KEY, 0o640, 'key = { file = "key" }', /other users may access/],
    ['a key that others can write', KEY, 0o602, 'key = { file = "key" }', /other users may access/],
    ['two lines', `${KEY}\n${KEY}`, 0o600, 'key = { file = "key" }', /does not hold one key/],
    ['an empty file', '', 0o600, 'key = { file = "key" }', /does not hold one key/],
    ['a missing file', KEY, 0o600, 'key = { file = "other" }', /other does not exist/],
    ['a directory', KEY, 0o600, 'key = { file = "." }', /is not a regular file/],
    ['an unset variable', KEY, 0o600, 'key = { env = "UNSET" }', /variable UNSET is not set/],
    ['a variable with lines', KEY, 0o600, 'key = { env = "LINES" }', /LINES has other characters/],
    ['no certificate', KEY, 0o600, 'ca_file = "key"', /has no certificate/],
  ])('refuses %s, without quoting its content', (_, content, mode, more, message) => {
    write('key', content, mode);
    write('models.toml', upstream(more));
    let error: unknown;
    try {
      read({}, { LINES: `${KEY}\nx` });
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toMatchObject({ code: 'models_file_invalid' });
    expect(describeError(error)).toMatch(message);
    expect(describeError(error)).not.toContain(KEY);
  });

  it('does not wait for a pipe or read an endless file', () => {
    execFileSync('mkfifo', ['-m', '600', join(dir, 'pipe')]);
    const missing = { NEUROVISOR_MODELS: join(dir, 'pipe') };
    expect(() => read(missing)).toThrow(/pipe is not a regular file/);
    for (const more of ['key = { file = "pipe" }', 'ca_file = "/dev/zero"']) {
      write('models.toml', upstream(more));
      expect(() => read()).toThrow(/is not a regular file/);
    }
    write('big', '');
    truncateSync(join(dir, 'big'), 2 ** 33);
    write('models.toml', upstream('key = { file = "big" }'));
    expect(() => read()).toThrow(/big is larger than/);
  });

  it('refuses a file that others can change, since they could redirect the keys', () => {
    for (const mode of [0o620, 0o602]) {
      write('models.toml', upstream(''), mode);
      expect(() => read()).toThrow(/other users may change .*models\.toml/);
    }
    write('models.toml', upstream(''), 0o644);
    expect(read()?.upstreams).toHaveLength(1);
  });

  it('checks the target of a link', () => {
    write('key', KEY, 0o644);
    symlinkSync(join(dir, 'key'), join(dir, 'link'));
    write('models.toml', upstream('key = { file = "link" }'));
    expect(() => read()).toThrow(/other users may access/);
    write('key', KEY);
    expect(read()?.upstreams[0]?.target.apiKey).toBe(KEY);
  });
});
