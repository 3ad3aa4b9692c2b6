/** Waits for a new Firecracker. */
import type { Clock } from '../../../../base/clock.ts';
import { VmmError } from '../../errors.ts';
import type { ApiClient } from '../api-client.ts';

/** From the spawn to the first answer; usually 10 ms. */
const API_MS_MAX = 15_000;
const RETRY_MS = 2;

/**
 * Resolves when the API answers. The socket's file may be missing, or exist before Firecracker listens.
 * @throws VmmError `vmm_timeout`; `vm_gone` if the process has ended; the refusal of `GET /`
 */
export async function awaitApi(api: ApiClient, exited: Promise<unknown>, clock: Clock): Promise<void> {
  let hasEnded = false;
  void exited.then(() => {
    hasEnded = true;
  });
  const deadlineMs = clock.now() + API_MS_MAX;
  for (;;) {
    try {
      await api.call({ method: 'GET', path: '/' });
      return;
    } catch (error) {
      if (!(error instanceof VmmError) || error.code !== 'vm_gone' || hasEnded) throw error;
      if (clock.now() >= deadlineMs) {
        throw new VmmError('vmm_timeout', "Firecracker's API did not answer", { cause: error });
      }
    }
    await Promise.race([exited, new Promise<void>((resolve) => clock.after(RETRY_MS, resolve))]);
  }
}
