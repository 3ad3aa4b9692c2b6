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
});
