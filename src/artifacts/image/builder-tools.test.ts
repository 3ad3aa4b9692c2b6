import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { silentLog } from '../../base/log.ts';
import { PACKAGE_DIR } from '../../base/package-dir.ts';
import { silentProgress } from '../../base/progress.ts';
import { prepareBuilderTools } from './builder-tools.ts';

const dir = mkdtempSync(join(tmpdir(), 'nv-builder-tools-'));
const { PATH } = process.env;
afterEach(() => {
  process.env['PATH'] = PATH;
  rmSync(dir, { recursive: true });
});

it('prepareBuilderTools: first installs the packages that compile the tools, even if no image was pulled', async () => {
  // A machine with none of them, whose apt fails.
  const bin = join(dir, 'bin');
  mkdirSync(bin);
  const failing = '#!/bin/sh\necho "E: no packages today" >&2\nexit 100\n';
  for (const name of ['apt-get', 'apt-cache', 'gcc', 'patch']) {
    writeFileSync(join(bin, name), failing, { mode: 0o755 });
  }
  process.env['PATH'] = bin;
  const preparing = prepareBuilderTools({
    cacheDir: join(dir, 'cache'),
    sourceDir: PACKAGE_DIR,
    progress: silentProgress,
    log: silentLog,
    signal: new AbortController().signal,
  });
  await expect(preparing).rejects.toMatchObject({
    code: process.geteuid?.() === 0 ? 'install_failed' : 'host_packages_missing',
    message: expect.stringContaining('patch'),
  });
});
