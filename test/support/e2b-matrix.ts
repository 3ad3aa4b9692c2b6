/**
 * Clients × methods: results of the scripts in `test/fixtures/e2b-conformance`, compared with a table of docs/e2b.md.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ROOT } from './cli.ts';
import { CLIENT_VERSIONS, type E2bClient, nodeClient, pythonClient, runWithClient } from './e2b-clients.ts';

const SCRIPTS = join(ROOT, 'test/fixtures/e2b-conformance');

interface Outcome {
  readonly method: string;
  readonly result: 'ok' | 'failed' | 'absent' | 'untried';
  readonly why?: string;
}

export interface Column {
  readonly title: string;
  readonly client: E2bClient | string;
  readonly script: string;
  readonly args: readonly string[];
}

/** @param script without its suffix */
export const columnsOf = (script: string): readonly Column[] =>
  CLIENT_VERSIONS.flatMap((version) => [
    { title: `JavaScript, ${version}`, client: nodeClient(version), script: `${script}.mjs`, args: [] },
    ...(['sync', 'async'] as const).map((mode) => ({
      title: `Python ${mode}, ${version}`,
      client: pythonClient(version),
      script: `${script}.py`,
      args: [mode],
    })),
  ]);

/** The columns of usual runs: each language, each mode and each version once. */
export const USUAL_TITLES: readonly string[] = ['JavaScript, newest', 'Python sync, newest', 'Python async, 2.45'];

/** `files.makeDir` and `files_make_dir` are one method. */
const bare = (method: string): string => method.toLowerCase().replace(/[^a-z]/g, '');

const WORDS: Readonly<Record<string, Outcome['result']>> = { yes: 'ok', '–': 'absent', 'with `base`': 'untried' };

/**
 * Result by method, as the table below the mark `<!-- MARK -->` says of the client. A row may have several methods, and a
 * column several clients.
 */
export async function documented(mark: string, { title }: Column): Promise<object> {
  const text = await readFile(join(ROOT, 'docs/e2b.md'), 'utf8');
  const [, after = ''] = text.split(`<!-- ${mark} -->\n\n`);
  const [table = ''] = after.split('\n\n');
  const [head = [], , ...rows] = table.split('\n').map((line) =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
  const at = head.findIndex((titles) => titles.split('; ').includes(title));
  const methods = rows.flatMap((cells) =>
    [...(cells[0] ?? '').matchAll(/`([^`]+)`/g)].map(([, one = '']) => ({ one, cells })),
  );
  return Object.fromEntries(methods.map(({ one, cells }) => [bare(one), WORDS[cells[at] ?? ''] ?? cells[at]]));
}

/** Results by method, from the script; and the failures. */
export async function tried(
  { client, script, args }: Column,
  server: { readonly url: string; readonly apiKey: string },
  ...more: string[]
): Promise<{ results: object; failed: readonly Outcome[]; stderr: string }> {
  if (typeof client === 'string') throw new Error(client);
  const path = join(SCRIPTS, script);
  const { stdout, stderr } = await runWithClient(client, server, path, [...args, ...more]);
  const outcomes = stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Outcome);
  const failed = outcomes.filter(({ result }) => result === 'failed');
  const results = outcomes.map(({ method, result }) => [bare(method), result] as const);
  return { results: Object.fromEntries(results), failed, stderr };
}

/** The first sandbox builds the template `agent`: not every client retries if that takes longer than 50 s. */
export async function buildAgent(server: { readonly url: string; readonly apiKey: string }): Promise<void> {
  const headers = { 'X-API-Key': server.apiKey, 'Content-Type': 'application/json' };
  const body = JSON.stringify({ templateID: 'agent' });
  for (;;) {
    const made = await fetch(`${server.url}/v2/sandboxes`, { method: 'POST', headers, body });
    const answer = (await made.json()) as { readonly sandboxID: string };
    if (made.status === 503) continue;
    if (made.status !== 201) throw new Error(`${made.status}: ${JSON.stringify(answer)}`);
    await fetch(`${server.url}/sandboxes/${answer.sandboxID}`, { method: 'DELETE', headers });
    return;
  }
}
