import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Change } from '../../../artifacts/transfer/review.ts';
import { reviewText } from './sync.ts';

describe('reviewText', () => {
  let dir: string;
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'nv-sync-text-'));
  });
  afterEach(() => rm(dir, { recursive: true }));

  const created = async (path: string, text: string, mode = 0o644): Promise<Change> => {
    const staged = join(dir, `staged-${path}`);
    await writeFile(staged, text);
    const after = { type: 'file', mode, bytes: text.length, sha256: '' } as const;
    return { kind: 'created', path, before: null, after, staged, conflict: null };
  };

  it('names the permissions of a new program, and of a file that becomes one', async () => {
    const program = await created('a', 'x\n', 0o755);
    const after = { type: 'file', mode: 0o755, bytes: 1, sha256: 's' } as const;
    const before = { ...after, mode: 0o600 };
    const changed: Change = { ...program, kind: 'changed', path: 'b', before, after, staged: null };
    const plain = await created('c', 'x\n');
    const review = { changes: [program, changed, plain], refused: [] };
    const list = (await reviewText({ from: dir }, review)).split('\n').slice(1, 4);
    expect(list).toEqual([
      '  created   a  2 B  mode 755',
      '  changed   b  1 B -> 1 B  mode 600 -> 755',
      '  created   c  2 B',
    ]);
  });

  it('gives up on diffs when many files are too different for one', async () => {
    const lines = Array.from({ length: 1_100 }, (_, at) => `${at}\n`).join('');
    const changes: Change[] = [];
    for (let at = 0; at < 22; at += 1) changes.push(await created(`big${at}`, lines));
    changes.push(await created('small', 'x\n'));
    const text = await reviewText({ from: dir }, { changes, refused: [] });
    expect(text).not.toContain('+++ b/small');
    expect(text).toContain('… (3 more files are not shown)');
  });

  it('ends between two diffs when it is canceled', async () => {
    const changes = [await created('a', 'x\n')];
    const aborted = AbortSignal.abort(new Error('interrupted'));
    const text = reviewText({ from: dir }, { changes, refused: [] }, aborted);
    await expect(text).rejects.toThrow('interrupted');
  });
});
