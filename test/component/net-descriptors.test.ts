/** The packet filter in a process that has used up its descriptors. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';

const FIXTURE = join(import.meta.dirname, '../fixtures/nft-without-descriptors.ts');

/** Runs the code in its own network namespace. @throws if the process exits nonzero */
async function ask(when: 'warm' | 'cold'): Promise<unknown> {
  const limited = ['--net', 'prlimit', '--nofile=200', process.execPath, FIXTURE, when];
  const { stdout } = await promisify(execFile)('unshare', limited);
  return JSON.parse(stdout);
}

describe('Nft: without free descriptors', () => {
  it('apply: works with already open descriptors, also for concurrent calls', async () => {
    expect(await ask('warm')).toEqual({ without: 'ok ok ok', again: 'ok ok ok' });
  });

  it('apply: fails if nothing is open yet, and the process continues', async () => {
    const failed = 'nft_failed nft_failed nft_failed';
    expect(await ask('cold')).toEqual({ without: failed, again: 'ok ok ok' });
  });
});
