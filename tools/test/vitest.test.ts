/** A real run of Vitest in a folder of its own, read back through the reporter. */
import { mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { PACKAGE_DIR } from '../../src/base/package-dir.ts';
import { failuresOf, skipsOf } from './report.ts';
import { appendUnsteady } from './unsteady-list.ts';
import { UnsteadyBudget, verdictOf } from './verdict.ts';
import { vitestIn } from './vitest.ts';

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nv-vitest-'));
  await symlink(join(PACKAGE_DIR, 'node_modules'), join(dir, 'node_modules'));
  await writeFile(join(dir, 'vitest.config.mjs'), 'export default { test: { pool: "forks" } };');
});
afterAll(() => rm(dir, { recursive: true }));

const vitest = (env: Readonly<Record<string, string>> = {}) =>
  vitestIn(
    {
      signal: new AbortController().signal,
      env: { ...process.env, NEUROVISOR_REQUIRE: '', MARK: join(dir, 'mark'), ...env },
      isTerminal: false,
      write: () => undefined,
    },
    42,
    { config: join(dir, 'vitest.config.mjs') },
  );

it('vitestIn: reports outcomes, reasons, failed hooks, stray errors and the seed', async () => {
  await writeFile(
    join(dir, 'mixed.test.mjs'),
    `import { beforeAll, describe, expect, it } from 'vitest';
     it('seed', () => expect(process.env.NEUROVISOR_SEED).toBe('42'));
     it('breaks', () => expect(1).toBe(2));
     it('note', (context) => context.skip('not today'));
     describe.skip('suite', { meta: { skipReason: 'no root' } }, () => {
       it('inner', () => {});
     });
     describe('hook', () => {
       beforeAll(() => { throw new Error('no set-up'); });
       it('never runs', () => {});
     });
     it('stray', () => void setTimeout(() => { throw new Error('loose'); }));
     it('waits', () => new Promise((resolve) => setTimeout(resolve, 50)));`,
  );
  const { status, report } = await vitest()({ projects: [], filters: ['mixed'] });
  expect(status).toBe(1);
  expect(failuresOf(report)).toEqual([
    { file: 'mixed.test.mjs', test: 'hook', message: expect.stringMatching(/^Error: no set-up\n/) },
    { file: 'mixed.test.mjs', test: 'breaks', message: expect.stringContaining('to be 2') },
  ]);
  expect(skipsOf(report).map(({ test, reason }) => [test, reason])).toEqual([
    ['note', 'not today'],
    ['suite > inner', 'no root'],
    ['hook > never runs', 'the set-up of its file or suite failed'],
  ]);
  expect(report.strayErrors).toEqual([expect.stringContaining('loose')]);
});

it('requires: skips with the reason, and fails if the capability is required', async () => {
  await writeFile(
    join(dir, 'requires.test.mjs'),
    `import { expect, it } from 'vitest';
     import { need, requires } from '${PACKAGE_DIR}/test/support/requires.ts';
     requires('kvm', { device: 1 }).describe('found', ({ device }) => {
       it('runs', () => expect(device).toBe(1));
     });
     requires('root', 'no root').describe('lacking', (found) => {
       it('inner', () => found.device());
     });
     requires('root', 'no root').it('alone', () => expect.fail());
     requires('root', 'no root').it.each([1, 2])('case %i', () => expect.fail());
     it('late', (context) => { need(context, 'cgroup', 'no group'); expect.fail(); });`,
  );
  const request = { projects: [], filters: ['requires'] };
  const { status, report } = await vitest()(request);
  expect(status).toBe(0);
  expect(report.files[0]?.tests.map(({ name, state, reason }) => [name, state, reason])).toEqual([
    ['found > runs', 'passed', null],
    ['lacking > inner', 'skipped', 'no root'],
    ['alone', 'skipped', 'no root'],
    ['case 1', 'skipped', 'no root'],
    ['case 2', 'skipped', 'no root'],
    ['late', 'skipped', 'no group'],
  ]);
  const late = failuresOf((await vitest({ NEUROVISOR_REQUIRE: 'cgroup' })(request)).report);
  expect(late).toMatchObject([{ test: 'late', message: expect.stringContaining('lacks: no group') }]);
  const early = failuresOf((await vitest({ NEUROVISOR_REQUIRE: 'kvm,root' })(request)).report);
  expect(early).toMatchObject([{ test: null, message: expect.stringContaining('lacks: no root') }]);
  const unknown = failuresOf((await vitest({ NEUROVISOR_REQUIRE: 'rot' })(request)).report);
  expect(unknown).toMatchObject([{ message: expect.stringContaining('capability "rot"') }]);
});

it('vitestIn: runs only the tests and suites that are named', async () => {
  await writeFile(
    join(dir, 'named.test.mjs'),
    `import { describe, expect, it } from 'vitest';
     describe('a (suite)', () => { it('one + one', () => {}); it('one', () => expect.fail()); });
     describe('whole', () => { it('x', () => {}); it('y', () => {}); });
     it('other', () => expect.fail());`,
  );
  const names = ['a (suite) > one + one', 'whole'];
  const { status, report } = await vitest()({ projects: [], filters: ['named'], names });
  expect(status).toBe(0);
  const passed = report.files.flatMap(({ tests }) => tests.filter(({ state }) => state === 'passed'));
  expect(passed.map(({ name }) => name)).toEqual(['a (suite) > one + one', 'whole > x', 'whole > y']);
});

it('vitestIn: a file that can not be loaded is a failure', async () => {
  await writeFile(join(dir, 'broken.test.mjs'), "import './nowhere.mjs';");
  const { report } = await vitest()({ projects: [], filters: ['broken'] });
  expect(failuresOf(report)).toMatchObject([{ file: 'broken.test.mjs', test: null }]);
});

it('verdictOf: a test that fails once is unsteady and goes to the list', async () => {
  await writeFile(
    join(dir, 'sways.test.mjs'),
    `import { existsSync, writeFileSync } from 'node:fs';
     import { expect, it } from 'vitest';
     it('sways', () => {
       const isSecond = existsSync(process.env.MARK);
       writeFileSync(process.env.MARK, '');
       expect(isSecond).toBe(true);
     });`,
  );
  const request = { projects: [], filters: ['sways'] };
  const outcome = await verdictOf(vitest(), request, { budget: new UnsteadyBudget() });
  expect(outcome).toMatchObject({ passed: 0, failed: 0, unsteady: [{ test: 'sways' }] });
  const list = join(dir, 'lists/unsteady.jsonl');
  const now = new Date(0);
  await appendUnsteady(list, 42, outcome.unsteady, now);
  await appendUnsteady(list, 43, [], now);
  const lines = (await readFile(list, 'utf8')).trimEnd().split('\n');
  expect(lines.map((line) => JSON.parse(line) as unknown)).toEqual([
    {
      date: '1970-01-01T00:00:00.000Z',
      seed: 42,
      file: 'sways.test.mjs',
      test: 'sways',
      message: expect.stringContaining('expected false to be true'),
    },
  ]);
});
