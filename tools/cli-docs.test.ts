import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { cliPage, PAGE } from './cli-docs.ts';

it('docs/cli.md has every command and option: if not, run node tools/cli-docs.ts', async () => {
  expect(readFileSync(PAGE, 'utf8')).toBe(await cliPage());
});
