/** E2B's unmodified clients, method by method, against a daemon with real VMs; docs/e2b.md shows the same table. */
import { readFile } from 'node:fs/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import { useDaemonHome, vmmsIn } from '../support/daemon.ts';
import { buildAgent, columnsOf, documented, tried, USUAL_TITLES } from '../support/e2b-matrix.ts';
import { isFullRun } from '../support/full-run.ts';

const PATIENT = 300_000;
/** A full run tries all six. */
const COLUMNS = columnsOf('check').filter(({ title }) => isFullRun() || USUAL_TITLES.includes(title));

const home = useDaemonHome();
let server: { readonly url: string; readonly apiKey: string };

beforeAll(async () => {
  const { url, apiKeyPath } = await home.serve('-o', 'json', '--pool', '0', '--port', '0').ready();
  server = { url: url ?? '', apiKey: (await readFile(apiKeyPath ?? '', 'utf8')).trim() };
  await buildAgent(server);
});

describe('each method of each client does what docs/e2b.md says', () => {
  it.each(COLUMNS)('$title', { timeout: PATIENT }, async (column) => {
    const { results, failed, stderr } = await tried(column, server, 'agent');
    expect({ failed, stderr }).toEqual({ failed: [], stderr: '' });
    expect(results).toEqual(await documented('matrix', column));
  });

  it('leave no VM behind', async () => {
    expect(await vmmsIn(home.runDir)).toEqual([]);
  });
});
