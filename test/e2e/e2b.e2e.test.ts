/** E2B's unmodified clients, method by method, against a daemon with real VMs; docs/e2b.md shows the same table. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { ROOT } from '../support/cli.ts';
import { useDaemonHome, vmmsIn } from '../support/daemon.ts';
import {
  CLIENT_VERSIONS,
  type E2bClient,
  nodeClient,
  pythonClient,
  runWithClient,
} from '../support/e2b-clients.ts';

const SCRIPTS = join(ROOT, 'test/fixtures/e2b-conformance');
const PATIENT = 300_000;

interface Outcome {
  readonly method: string;
  readonly result: 'ok' | 'failed' | 'absent' | 'untried';
  readonly why?: string;
}

interface Column {
  readonly title: string;
  readonly client: E2bClient | string;
  readonly script: string;
  readonly args: readonly string[];
}

const COLUMNS: readonly Column[] = CLIENT_VERSIONS.flatMap((version) => [
  { title: `JavaScript, ${version}`, client: nodeClient(version), script: 'check.mjs', args: [] },
  ...(['sync', 'async'] as const).map((mode) => ({
    title: `Python ${mode}, ${version}`,
    client: pythonClient(version),
    script: 'check.py',
    args: [mode],
  })),
]);

const home = useDaemonHome();
let server: { readonly url: string; readonly apiKey: string };

beforeAll(async () => {
  const { url, apiKeyPath } = await home.serve('-o', 'json', '--pool', '0', '--port', '0').ready();
  server = { url: url ?? '', apiKey: (await readFile(apiKeyPath ?? '', 'utf8')).trim() };
});

/** `files.makeDir` and `files_make_dir` are one method. */
const bare = (method: string): string => method.toLowerCase().replace(/[^a-z]/g, '');

/** Method → what the table of docs/e2b.md says of each column. */
async function documented(): Promise<ReadonlyMap<string, ReadonlyMap<string, string>>> {
  const text = await readFile(join(ROOT, 'docs/e2b.md'), 'utf8');
  const [, table = ''] = /<!-- matrix -->\n\n([\s\S]*?)\n\n/.exec(text) ?? [];
  const [head = [], , ...rows] = table.split('\n').map((line) =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
  return new Map(
    rows.map(([method = '', ...cells]) => [
      bare(method),
      new Map(cells.map((cell, index) => [head[index + 1] ?? '', cell])),
    ]),
  );
}

const WORDS: Readonly<Record<string, Outcome['result']>> = {
  yes: 'ok',
  '–': 'absent',
  'with `base`': 'untried',
};

describe('each method of each client does what docs/e2b.md says', () => {
  it.each(COLUMNS)('$title', { timeout: PATIENT }, async ({ title, client, script, args }) => {
    if (typeof client === 'string') throw new Error(client);
    const path = join(SCRIPTS, script);
    const { stdout, stderr } = await runWithClient(client, server, path, [...args, 'agent']);
    const outcomes = stdout
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as Outcome);
    const failed = outcomes.filter(({ result }) => result === 'failed');
    expect({ failed, stderr }).toEqual({ failed: [], stderr: '' });
    const table = await documented();
    const expected = [...table].map(([method, cells]) => [
      method,
      WORDS[cells.get(title) ?? ''] ?? cells.get(title),
    ]);
    const seen = new Map(outcomes.map(({ method, result }) => [bare(method), result]));
    expect(Object.fromEntries(seen)).toEqual(Object.fromEntries(expected));
  });

  it('leave no VM behind', async () => {
    expect(await vmmsIn(home.runDir)).toEqual([]);
  });
});
