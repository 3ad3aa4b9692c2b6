/** The neighbors proof holds, and fails where one sandbox can hold up the event loop. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import type { Proof } from '../../prove/proof.ts';
import { prove } from '../../prove/prove.ts';
import { readConfig } from '../../src/base/config.ts';
import { silentLog } from '../../src/base/log.ts';

const run = promisify(execFile);
const ON_LOOP = join(import.meta.dirname, '../fixtures/prove-neighbors-on-loop.ts');
const OPEN = join(import.meta.dirname, '../fixtures/prove-neighbors-open.ts');
const failed = ({ tried }: Proof) => tried.filter(({ ok }) => !ok);

describe('prove neighbors', () => {
  it('holds, with a control for each flood', async () => {
    const options = { config: readConfig({}), log: silentLog, signal: new AbortController().signal };
    const [proof] = await prove(['neighbors'], options);
    expect(proof && failed(proof)).toEqual([]);
    const controls = proof?.tried.filter(({ what }) => what.startsWith('control: a flood'));
    expect(controls).toHaveLength(5);
  });

  it('does not hold if bodies are checked on the event loop', async () => {
    const args = ['--net', process.execPath, ON_LOOP];
    const { stdout } = await run('unshare', args, { maxBuffer: 1024 * 1024 });
    const what = failed(JSON.parse(stdout) as Proof).map((each) => each.what);
    expect(what).toContain('a flood of bodies: the event loop is held');
  });

  it('does not hold without checked fields, salts, owners of listeners, and identities of memory', async () => {
    const { stdout } = await run('unshare', ['--net', process.execPath, OPEN], { maxBuffer: 1024 * 1024 });
    expect(failed(JSON.parse(stdout) as Proof).map((each) => each.what)).toEqual([
      '… its request hits the cache',
      '… and an answer from its own cache tells cached tokens',
      ...['enable_search', 'prompt_embeds', 'chat_template', 'request_id', 'cache_salt'].map(
        (field) => `a request with ${field}`,
      ),
      'a request with a field that nobody knows',
      'a listener of another user there',
      'a taken-over VMM gives a sealed file that it made, whose pages would count as ours',
      'a taken-over VMM gives a file of a file system, which it can truncate',
    ]);
  });
});
