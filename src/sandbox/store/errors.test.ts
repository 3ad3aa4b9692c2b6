import { describe, expect, it } from 'vitest';
import { asStoreError, isBusy, isDiskFull, StoreError } from './errors.ts';

const coded = (code: string, errcode?: number): Error =>
  Object.assign(new Error('why'), { code }, errcode === undefined ? {} : { errcode });
const sqlite = (errcode: number): Error => coded('ERR_SQLITE_ERROR', errcode);

describe('asStoreError', () => {
  // Extended codes carry the primary one in the low byte (sqlite.org/rescode.html).
  it.each([
    [coded('ENOSPC'), 'disk_full'],
    [coded('EDQUOT'), 'disk_full'],
    [sqlite(13), 'disk_full'],
    [sqlite(4874), 'disk_full'],
    [sqlite(11), 'store_damaged'],
    [sqlite(26), 'store_damaged'],
    [sqlite(779), 'store_damaged'],
    [sqlite(10), 'store_unavailable'],
    [sqlite(778), 'store_unavailable'],
    [sqlite(14), 'store_unavailable'],
    [sqlite(8), 'store_unavailable'],
    [coded('EACCES'), 'store_unavailable'],
    [coded('ERR_INVALID_STATE'), 'store_closed'],
  ])('%o: %s, with the cause, and a remedy unless the caller closed the store', (error, code) => {
    const mapped = asStoreError(error, 'do it', '/somewhere');
    expect(mapped).toMatchObject({ code, message: expect.stringContaining('do it') });
    expect((mapped as StoreError).cause).toBe(error);
    if (code !== 'store_closed') expect((mapped as StoreError).remedy).toContain('/somewhere');
  });

  it('leaves StoreErrors and errors without a code unchanged', () => {
    for (const error of [new StoreError('in_use', 'x'), sqlite(275), coded('EMFILE'), 'text']) {
      expect(asStoreError(error, 'do it', 'dir')).toBe(error);
    }
  });
});

describe('isBusy, isDiskFull', () => {
  it('recognize extended codes, and only SQLite errors', () => {
    expect([sqlite(5), sqlite(261), sqlite(6), coded('EBUSY', 5)].map(isBusy)).toEqual([true, true, false, false]);
    expect([sqlite(13), sqlite(10), coded('ENOSPC'), coded('X', 13)].map(isDiskFull)).toEqual([
      true,
      false,
      true,
      false,
    ]);
  });
});
