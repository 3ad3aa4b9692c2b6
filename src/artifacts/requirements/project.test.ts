import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { projectMetadata } from './project.ts';
import { GUEST_PYTHON, pythonImage, requirePython } from './python.ts';

describe('projectMetadata', () => {
  it('reads [project]', () => {
    const text = '[project]\nname = "p"\nrequires-python = "~=3.11"\ndependencies = ["a>1"]\n';
    expect(projectMetadata(text)).toEqual({ dependencies: ['a>1'], requiresPython: '~=3.11', groups: [] });
    expect(projectMetadata('[tool.x]\n')).toEqual({ dependencies: [], requiresPython: null, groups: [] });
  });

  it('adds the extras and dependency groups that are asked for', () => {
    const text = [
      '[project]\nname = "My.Tool"\ndependencies = ["a"]',
      '[project.optional-dependencies]\nPlots = ["b"]\nall = ["my-tool[plots]", "c[x]"]',
      '[dependency-groups]\ntest = ["d"]\ndev = [{include-group = "test"}, "e"]',
    ].join('\n');
    expect(projectMetadata(text, ['all', 'dev'])).toEqual({
      dependencies: ['a', 'b', 'c[x]', 'd', 'e'],
      requiresPython: null,
      groups: ['dev'],
    });
    expect(() => projectMetadata(text, ['docs'])).toThrow('no dependency group "docs"; it has plots, all, test, dev');
  });

  it.each([
    ['[project', 'not TOML'],
    ['project = 1', 'not a table'],
    ['[project]\ndependencies = "a"', 'list of strings'],
    ['[project]\ndynamic = ["dependencies"]', 'computed by its build tool'],
    ['[project]\ndynamic = ["optional-dependencies"]', 'computed by its build tool'],
    ['[project]\noptional-dependencies = 1', 'not a table'],
    ['[project.optional-dependencies]\ndev = "a"', 'must be a list'],
    ['[dependency-groups]\ndev = [1]', 'list of strings'],
    ['[dependency-groups]\ndev = [{include-group = "dev"}]', 'too deeply'],
    ['[project]\nname = "p"\noptional-dependencies.dev = ["p[dev]"]', 'too deeply'],
  ])('refuses %j', (text, why) => {
    expect(() => projectMetadata(text, ['dev'])).toThrow(
      expect.objectContaining({ code: 'project_invalid', message: expect.stringContaining(why) }),
    );
  });
});

describe('requirePython', () => {
  it.each(['>=3.10', '>=3.11,<4', '==3.11.*', '~=3.11', '!=3.12'])('accepts 3.11.2 for %s', (wanted) =>
    expect(requirePython('3.11.2', wanted)).toBeUndefined(),
  );

  it.each([
    ['>=3.12', 'python_unfit'],
    ['<3.11', 'python_unfit'],
    ['three', 'project_invalid'],
  ])('rejects 3.11.2 for %s: %s', (wanted, code) => {
    expect(() => requirePython('3.11.2', wanted)).toThrow(expect.objectContaining({ code }));
  });
});

describe('other Pythons', () => {
  it.each([
    ['3', null],
    ['3.11', null],
    ['3.11.2', null],
    ['3.11.9', 'python:3.11.9-slim'],
    ['3.13', 'python:3.13-slim'],
    ['3.12.4', 'python:3.12.4-slim'],
  ])('%s comes from %s', (version, image) => expect(pythonImage(version)).toBe(image));

  it.each(['2.7', '3.9', '3.13-slim', '3.13/x', ''])('refuses %j', (version) =>
    expect(() => pythonImage(version)).toThrow(
      expect.objectContaining({ code: 'python_unfit', remedy: expect.stringContaining('3.12, 3.13') }),
    ),
  );

  it.each([
    ['>=3.12', 'use run --python 3.12, or relax'],
    ['>=3.13.1', 'use run --python 3.13, or relax'],
    ['<3', 'relax'],
  ])('a guest without %s: %s', (wanted, remedy) =>
    expect(() => requirePython('3.11.2', wanted)).toThrow(
      expect.objectContaining({ remedy: expect.stringMatching(new RegExp(`^${remedy}`)) }),
    ),
  );
});

it('GUEST_PYTHON is the golden image’s', async () => {
  const lock = await readFile(new URL('../../../image/debian.lock', import.meta.url), 'utf8');
  expect(lock).toContain(`python3.11=${GUEST_PYTHON}-`);
});
