import { describe, expect, it } from 'vitest';
import { errorAnswer } from '../../api/rest/errors.ts';
import { CodedError, describeError, isFullDisk } from '../../base/errors.ts';
import { StoreError } from '../store/errors.ts';
import { FREE_SPACE, fromStore, SandboxError, saveFailure, startFailure } from './errors.ts';

const FULL = new StoreError('disk_full', 'write a snapshot: no space left', {
  cause: new Error('ENOSPC'),
  remedy: 'Free space.',
});

describe('errors', () => {
  it.each([
    ['disk_full', 'disk_full', 507],
    ['snapshot_damaged', 'snapshot_damaged', 409],
    ['in_use', 'in_use', 409],
    ['name_taken', 'name_taken', 409],
    ['not_found', 'not_found', 404],
    ['store_busy', 'store_failed', 503],
    ['store_damaged', 'store_failed', 503],
  ] as const)('%s of the store is %s, and %i over HTTP', (code, expected, status) => {
    const error = fromStore(new StoreError(code, 'why', { cause: FULL, remedy: 'do this' }));
    expect(error).toBeInstanceOf(SandboxError);
    expect(error).toMatchObject({ code: expected, cause: FULL, remedy: 'do this' });
    expect(errorAnswer(error)).toMatchObject({ status, body: { error: { code: expected } } });
  });

  it('fromStore: leaves other errors unchanged', () => {
    for (const error of [new Error('no'), new CodedError('disk_full', 'no'), undefined]) {
      expect(fromStore(error)).toBe(error);
    }
  });

  it('saveFailure: disk_full for a full disk, else snapshot_failed; both with the remedy', () => {
    expect(saveFailure(FULL)).toMatchObject({ code: 'disk_full', remedy: 'Free space.' });
    expect(saveFailure(new Error('no'))).toMatchObject({ code: 'snapshot_failed', cause: Error('no') });
  });

  it('startFailure: a full disk of this host keeps its code and remedy', () => {
    const cause = Object.assign(new Error('ENOSPC: no space left'), { code: 'ENOSPC' });
    const failure = startFailure(new CodedError('vmm_failed', 'no disk', { cause }), '');
    expect(failure).toMatchObject({ code: 'disk_full', remedy: FREE_SPACE });
    expect(startFailure(new Error('no'), '')).toMatchObject({ code: 'start_failed' });
    expect([isFullDisk(failure), isFullDisk(startFailure(new Error('no'), ''))]).toEqual([true, false]);
    expect(describeError(failure)).toBe(
      'the sandbox could not be started: the disk is full: no disk: ENOSPC: no space left',
    );
  });
});
