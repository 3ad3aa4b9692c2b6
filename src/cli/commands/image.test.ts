import { expect, it } from 'vitest';
import { testCli } from '../../../test/support/test-cli.ts';
import { openImagesHere } from './image.ts';

it('openImagesHere: when no VM can be started, that is the error, not the end of the command', async () => {
  const failing = async (): Promise<void> => {
    await using opened = openImagesHere(testCli().cli, () => Promise.reject(new Error('no VM')));
    await opened.context.runtime();
  };
  const error = await failing().catch((caught: unknown) => caught);
  expect(error).toMatchObject({ name: 'Error', message: 'no VM' });
});
