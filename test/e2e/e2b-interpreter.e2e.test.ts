/**
 * E2B's unmodified clients for the code interpreter, method by method, against a daemon with real VMs; docs/e2b.md
 * shows the same table. One client of each language, and with `--full` one of each kind and version, since a column takes a minute. The template is
 * small (`light-interpreter.ts`).
 */
import { readFile } from 'node:fs/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import { useDaemonHome, vmmsIn } from '../support/daemon.ts';
import { columnsOf, documented, tried, USUAL_TITLES } from '../support/e2b-matrix.ts';
import { isFullRun } from '../support/full-run.ts';
import { LIGHT, makeLightInterpreter } from '../support/light-interpreter.ts';

const NEWEST = ['JavaScript, newest', 'Python sync, newest'];
const COLUMNS = columnsOf('interpreter').filter(({ title }) =>
  isFullRun() ? USUAL_TITLES.includes(title) : NEWEST.includes(title),
);

const home = useDaemonHome();
let server: { readonly url: string; readonly apiKey: string };

beforeAll(async () => {
  await makeLightInterpreter(home);
  const { url, apiKeyPath } = await home.serve('-o', 'json', '--pool', '0', '--port', '0').ready();
  server = { url: url ?? '', apiKey: (await readFile(apiKeyPath ?? '', 'utf8')).trim() };
});

describe('each method of each client does what docs/e2b.md says', () => {
  it.each(COLUMNS)('$title', async (column) => {
    const { results, failed, stderr } = await tried(column, server, LIGHT);
    expect({ failed, stderr }).toEqual({ failed: [], stderr: '' });
    expect(results).toEqual(await documented('interpreter', column));
  });

  it('leave no VM behind', async () => {
    expect(await vmmsIn(home.runDir)).toEqual([]);
  });
});
