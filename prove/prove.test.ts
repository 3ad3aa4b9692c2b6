import { expect, it, vi } from 'vitest';
import { readConfig } from '../src/base/config.ts';
import { silentLog } from '../src/base/log.ts';
import { silenceFor } from './caller.ts';
import { prove } from './prove.ts';

it('prove: refuses to run without root, with a reason', async () => {
  using _ = vi.spyOn(process, 'geteuid').mockReturnValue(1000);
  const options = { config: readConfig({}), log: silentLog, signal: AbortSignal.abort() };
  await expect(prove(['metadata'], options)).rejects.toMatchObject({
    code: 'not_permitted',
    message: expect.stringContaining('need root'),
  });
});

it('silenceFor: long enough for a slow host, at least the idle host’s, and bounded', () => {
  expect([0, 10, 16].map(silenceFor)).toEqual([800, 800, 800]);
  expect(silenceFor(100)).toBe(5_000);
  expect(silenceFor(10_000)).toBe(15_000);
});
