/** Promises without a test: each guarantee of SECURITY.md, docs/security.md and SPECIFICATION.md, and each client of docs/reference/clients.md, names what shows it. */
import { globSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { PROOF_NAMES } from '../prove/prove.ts';

const root = join(import.meta.dirname, '..');
/** Tables of promises: the header of the column that names the tests. */
const PAGES = {
  'SECURITY.md': 'Shown by',
  'SPECIFICATION.md': 'Test',
  'docs/security.md': 'proof',
  'docs/reference/clients.md': 'tested by',
} as const;
/** Files that show something when they run. `test/support` has suites that several test files share. */
const TEST_FILES = [
  '{src,prove,bench,test,tools}/**/*.{test,prop}.ts',
  'test/{fuzz,support}/*.ts',
  'tools/*.ts',
  'guest/tests/test_*.py',
];
/** Clients of models that tests install, with their versions. */
const CLIENT_LOCKS = [
  'image/requirements.lock',
  'test/fixtures/{clients,model-clients/python}/*.lock',
  'test/fixtures/{clients,model-clients/*}/package.json',
];
const PROOFS: ReadonlySet<string> = new Set(PROOF_NAMES);

describe('promises', () => {
  const files = globSync(TEST_FILES, { cwd: root });
  const problems = (text: string, column: string): readonly string[] =>
    rowsOf(text, column).flatMap((row) => problemsOf(row, files));

  for (const [page, column] of Object.entries(PAGES)) {
    it(`${page}: each guarantee names tests or proofs that exist`, () => {
      const text = readFileSync(join(root, page), 'utf8');
      expect(rowsOf(text, column).length).toBeGreaterThan(10);
      expect(problems(text, column)).toEqual([]);
    });
  }

  it('docs/reference/clients.md: each client has a version that a test installs', () => {
    const locks = globSync(CLIENT_LOCKS, { cwd: root });
    const text = locks.map((lock) => readFileSync(join(root, lock), 'utf8')).join('\n');
    const rows = rowsOf(readFileSync(join(root, 'docs/reference/clients.md'), 'utf8'), 'tested by');
    const clients = rows.flatMap(({ promise }) => [...promise.matchAll(/^`(.+)` (\S+)/g)]);
    expect(clients.length).toBeGreaterThan(5);
    const isLocked = ([, name, version]: readonly string[]): boolean =>
      text.includes(`\n${name}==${version} `) || text.includes(`"${name}": "${version}"`);
    expect(clients.filter((client) => !isLocked(client)).map(([client]) => client)).toEqual([]);
  });

  it('canaries: a row without a test, and names of absent tests and proofs, are found', () => {
    const table = (cell: string): string => `| Promise | Test |\n|---|---|\n| It holds. | ${cell} |\n`;
    expect(problems(table('`src/base/text/plain.test.ts`'), 'Test')).toEqual([]);
    expect(problems(table('`plain.test.ts`, `neurovisor prove caps io`'), 'Test')).toEqual([]);
    expect(problems(table('`src/base/*.prop.ts`'), 'Test')).toEqual([]);
    expect(problems(table('`caps`'), 'Test')).toEqual([]);
    expect(problems(table('–'), 'Test')).toEqual(['no test: It holds.']);
    expect(problems(table('`neurovisor bench oom`'), 'Test')).toEqual(['no test: It holds.']);
    expect(problems(table('`src/base/gone.test.ts`'), 'Test')).toEqual(['absent: src/base/gone.test.ts']);
    expect(problems(table('`src/base/text/plain.ts`'), 'Test')).toEqual(['absent: src/base/text/plain.ts']);
    expect(problems(table('`neurovisor prove caps magic`'), 'Test')).toEqual(['absent: neurovisor prove magic']);
  });
});

type Row = { readonly promise: string; readonly shownBy: string };

/** Rows of those tables of a page that have the column. */
function rowsOf(page: string, column: string): readonly Row[] {
  const rows: Row[] = [];
  let at = -1;
  for (const line of page.split('\n')) {
    const cells = line.startsWith('|') ? line.slice(1, -1).split('|') : null;
    if (cells === null) at = -1;
    else if (at < 0) at = cells.findIndex((cell) => cell.trim() === column);
    else if (!/^-+$/.test((cells[0] ?? '').trim())) {
      rows.push({ promise: (cells[0] ?? '').trim(), shownBy: (cells[at] ?? '').trim() });
    }
  }
  return rows;
}

function problemsOf({ promise, shownBy }: Row, files: readonly string[]): readonly string[] {
  const absent: string[] = [];
  let shown = 0;
  for (const [, name = ''] of shownBy.matchAll(/`([^`]+)`/g)) {
    const proofs = name.startsWith('neurovisor prove ') ? proofsOf(name) : null;
    if (proofs) {
      absent.push(...proofs.filter((one) => !PROOFS.has(one)).map((one) => `neurovisor prove ${one}`));
      shown += 1;
    } else if (/\.(ts|py)$/.test(name)) {
      if (!isThere(name, files)) absent.push(name);
      shown += 1;
    } else if (PROOFS.has(name)) shown += 1;
  }
  return shown === 0 ? [`no test: ${promise}`] : absent.map((name) => `absent: ${name}`);
}

/** `neurovisor prove seccomp caps --vmm firecracker` → seccomp, caps */
function proofsOf(command: string): readonly string[] {
  const words = command.split(' ').slice(2);
  const options = words.findIndex((word) => word.startsWith('-'));
  return options < 0 ? words : words.slice(0, options);
}

/** A path, a pattern, or the name of a file beside the one that was named before it. */
function isThere(name: string, files: readonly string[]): boolean {
  if (!name.includes('/')) return files.some((file) => matches(basename(file), name));
  return files.some((file) => matches(file, name));
}

function matches(path: string, pattern: string): boolean {
  const [head = '', ...rest] = pattern.split('*');
  if (rest.length === 0) return path === pattern;
  const tail = rest.join('*');
  return path.startsWith(head) && path.endsWith(tail) && path.length >= head.length + tail.length;
}
