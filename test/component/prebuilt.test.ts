/**
 * Anyone can verify the compiled files in the repository: the full run rebuilds all of them, from the pinned source and
 * in another directory, and compares SHA-256. The kernel takes minutes.
 */
import { cp, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, type TestContext } from 'vitest';
import { prebuiltKernelDir, prebuiltKernelSchema } from '../../src/artifacts/image/kernel/kernel.ts';
import { runTool } from '../../src/artifacts/image/tool.ts';
import { describeError } from '../../src/base/errors.ts';
import { silentLog } from '../../src/base/log.ts';
import { prebuiltSchema, readPrebuilt } from '../../src/base/prebuilt/manifest.ts';
import { silentProgress } from '../../src/base/progress.ts';
import { PARTS, type Part, type PartName } from '../../tools/prebuilt/parts.ts';
import { isFullRun } from '../support/full-run.ts';
import { need, requiresFullRun } from '../support/requires.ts';

const ROOT = join(import.meta.dirname, '../..');
/** On two busy processors. */
const BUILD_MS_MAX = 3 * 3_600_000;
const { signal } = new AbortController();

let dir: string;
beforeEach(async () => {
  // On a disk: /tmp may be in memory, and small.
  dir = await mkdtemp('/var/tmp/nv-again-');
});
afterEach(() => rm(dir, { recursive: true, force: true }));

for (const [name, part] of Object.entries(PARTS) as [PartName, Part][]) {
  const tools = isFullRun() ? await judgeTools(name, part) : true;
  requiresFullRun('prebuilt-tools', () => tools).it(
    `prebuilt ${name}: a rebuild in another directory has the same bytes`,
    { timeout: BUILD_MS_MAX },
    async (context) => {
      if (name === 'kernel') await needSource(context as TestContext);
      const sourceDir = join(dir, 'checkout');
      const scratchDir = join(dir, 'scratch');
      await mkdir(scratchDir);
      for (const path of ['kernel', 'bpf', 'guest/init.c'])
        await cp(join(ROOT, path), join(sourceDir, path), { recursive: true });
      const progress = silentProgress;
      const made = await part.make({ sourceDir, scratchDir, progress, signal, log: silentLog });
      const shipped = await readPrebuilt(part.shippedDir(ROOT), prebuiltSchema);
      expect(made.manifest).toMatchObject({ ...shipped });
    },
  );
}

/** @returns true, or why the bytes would differ */
async function judgeTools(name: PartName, part: Part): Promise<true | string> {
  const shipped = await readPrebuilt(part.shippedDir(ROOT), prebuiltSchema);
  try {
    const here = await part.tools(signal);
    const other = Object.entries(shipped?.tools ?? {}).find(([tool, text]) => here[tool] !== text);
    if (other === undefined) return true;
    const [tool, text] = other;
    return `the shipped ${name} was made with ${tool} "${text}", and this machine has "${here[tool]}"`;
  } catch (error) {
    return `the tools of the shipped ${name} are not installed: ${describeError(error)}`;
  }
}

/** Skips if the mirrors no longer have the pinned source. */
async function needSource(context: TestContext): Promise<void> {
  const shipped = await readPrebuilt(prebuiltKernelDir(ROOT), prebuiltKernelSchema);
  const wanted = `${shipped?.source.package}=${shipped?.source.version}`;
  try {
    await runTool('apt-cache', ['show', wanted]);
  } catch (error) {
    need(context, 'prebuilt-tools', `apt has no ${wanted}: ${describeError(error)}`);
  }
}
