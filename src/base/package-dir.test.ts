import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { COMMIT_FILE, productName, productOf } from './package-dir.ts';

function folder(): { readonly dir: string; git(...args: string[]): string } {
  const dir = mkdtempSync(join(tmpdir(), 'nv-product-'));
  onTestFinished(() => rmSync(dir, { recursive: true }));
  writeFileSync(join(dir, 'package.json'), '{"version": "1.2.3"}');
  const who = ['-c', 'user.name=a', '-c', 'user.email=a@b'];
  return { dir, git: (...args) => execFileSync('git', [...who, ...args], { cwd: dir, encoding: 'utf8' }).trim() };
}

it('productOf: the commit of a checkout, with loose and packed refs, a detached head, and in a work tree', () => {
  const { dir, git } = folder();
  git('init', '-q');
  git('commit', '-q', '--allow-empty', '-m', 'first');
  const commit = git('rev-parse', 'HEAD').slice(0, 8);
  const product = { version: '1.2.3', commit };
  expect(productOf(dir)).toEqual(product);
  git('pack-refs', '--all');
  expect(productOf(dir)).toEqual(product);
  git('worktree', 'add', '-q', '-b', 'other', 'tree');
  writeFileSync(join(dir, 'tree/package.json'), '{"version": "1.2.3"}');
  expect(productOf(join(dir, 'tree'))).toEqual(product);
  git('checkout', '-q', '--detach');
  expect(productOf(dir)).toEqual(product);
  expect(productName(product)).toBe(`1.2.3 (${commit})`);
});

it('productOf: the commit of a built package; `null` without one', () => {
  const { dir } = folder();
  expect(productOf(dir)).toEqual({ version: '1.2.3', commit: null });
  expect(productName(productOf(dir))).toBe('1.2.3');
  mkdirSync(join(dir, 'dist'));
  writeFileSync(join(dir, COMMIT_FILE), 'no commit');
  expect(productOf(dir).commit).toBeNull();
  writeFileSync(join(dir, COMMIT_FILE), '0123456789abcdef\n');
  expect(productOf(dir).commit).toBe('01234567');
});
