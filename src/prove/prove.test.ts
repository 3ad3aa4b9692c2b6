import { expect, it, vi } from 'vitest';
import { silentLog } from '../base/log.ts';
import { readConfig } from '../config.ts';
import { prove } from './prove.ts';

it('prove: refuses to run without root, and says so', async () => {
  using _ = vi.spyOn(process, 'geteuid').mockReturnValue(1000);
  const options = { config: readConfig({}), log: silentLog, signal: AbortSignal.abort() };
  await expect(prove(['metadata'], options)).rejects.toMatchObject({
    code: 'not_permitted',
    message: expect.stringContaining('need root'),
  });
});
