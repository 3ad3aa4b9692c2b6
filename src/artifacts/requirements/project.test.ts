import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { projectMetadata } from './project.ts';
import { GUEST_PYTHON, requirePython } from './python.ts';

describe('projectMetadata', () => {
  it('reads [project]', () => {
    const text = '[project]\nname = "p"\nrequires-python = "~=3.11"\ndependencies = ["a>1"]\n';
    expect(projectMetadata(text)).toEqual({ dependencies: ['a>1'], requiresPython: '~=3.11' });
    expect(projectMetadata('[tool.x]\n')).toEqual({ dependencies: [], requiresPython: null });
  });

  it.each([
    ['[project', 'not TOML'],
    ['project = 1', 'not a table'],
    ['[project]\ndependencies = "a"', 'list of strings'],
    ['[project]\ndynamic = ["dependencies"]', 'computed by its build tool'],
  ])('refuses %j', (text, why) => {
    expect(() => projectMetadata(text)).toThrow(
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

it('GUEST_PYTHON is the golden image’s', async () => {
  const lock = await readFile(new URL('../../../image/debian.lock', import.meta.url), 'utf8');
  expect(lock).toContain(`python3.11=${GUEST_PYTHON}-`);
});
