/**
 * `npm run build`: makes `dist/`, which the npm package has instead of its sources, since Node runs no
 * TypeScript under `node_modules`. npm runs it by itself (`prepare`, by `prepare.mjs`) before it links or packs this checkout.
 * Nothing here needs it: `./neurovisor` and the tests run the sources.
 *
 *     src/**.ts, prove/, bench/ ── tsc ──► dist/src/**.js, .d.ts, dist/prove/, dist/bench/
 *     everything else there (C, Python) ── copied
 */
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, rmSync, writeFileSync } from 'node:fs';
import { extname, join } from 'node:path';
import { COMMIT_FILE, productOf } from '../src/base/package-dir.ts';

const root = join(import.meta.dirname, '..');
const dist = join(root, 'dist');
const tsc = join(root, 'node_modules/typescript/bin/tsc');

if (!existsSync(tsc)) {
  console.error('build: TypeScript is not installed; fix: npm ci --ignore-scripts --omit=optional');
  process.exit(1);
}
rmSync(dist, { recursive: true, force: true });
const args = [tsc, '-p', join(root, 'tsconfig.build.json')];
const { status } = spawnSync(process.execPath, args, { stdio: 'inherit' });
if (status !== 0) process.exit(1);
writeFileSync(join(root, COMMIT_FILE), `${productOf(root).commit ?? ''}\n`);
for (const folder of ['src', 'prove', 'bench'])
  cpSync(join(root, folder), join(dist, folder), {
    recursive: true,
    filter: (path) => extname(path) !== '.ts' && !path.includes('__pycache__'),
  });
