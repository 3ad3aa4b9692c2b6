/**
 * npm runs this before it packs or links this checkout, with whatever Node it has: plain JavaScript, so that an older
 * one says what is missing instead of failing at the first `.ts` file.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const manifest = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
const needed = /[\d.]+/.exec(manifest.engines.node)[0];

if (needed.localeCompare(process.versions.node, 'en', { numeric: true }) > 0) {
  console.error(`neurovisor needs Node ${needed} or newer; this is ${process.versions.node}`);
  console.error(
    `fix: install Node ${needed}, for example: npx --package=node@${Number.parseInt(needed, 10)} npm install`,
  );
  process.exit(1);
}
const build = fileURLToPath(new URL('build.ts', import.meta.url));
const { status } = spawnSync(process.execPath, [build], { stdio: 'inherit' });
process.exit(status ?? 1);
