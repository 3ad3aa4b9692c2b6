/** The balloon of one VM: returns pages of the guest to the host. */
import { MIB } from '../../../base/units.ts';
import type { Balloon } from '../driver.ts';
import { VmmError } from '../errors.ts';
import type { ApiClient } from './api-client.ts';
import { BALLOON_SIZE_CALL, balloonCall } from './config.ts';

const PAGES_PER_MIB = MIB / 4096;

export class FirecrackerBalloon implements Balloon {
  readonly #api: ApiClient;
  readonly #memoryMibMax: number;

  /** @param memoryMibMax RAM of the VM */
  constructor(api: ApiClient, memoryMibMax: number) {
    this.#api = api;
    this.#memoryMibMax = memoryMibMax;
  }

  async setMemory(memoryMib: number): Promise<void> {
    if (!(memoryMib > 0 && memoryMib <= this.#memoryMibMax)) {
      const cause = `${memoryMib} MiB of ${this.#memoryMibMax}`;
      throw new VmmError('vm_spec_invalid', "the VM's memory can't be changed", { cause });
    }
    await this.#api.call(balloonCall(Math.ceil(this.#memoryMibMax - memoryMib)));
  }

  async memoryMib(): Promise<number> {
    const answer = await this.#api.call(BALLOON_SIZE_CALL);
    const { actual_pages: pages } = (answer ?? {}) as { actual_pages?: unknown };
    if (typeof pages !== 'number' || !Number.isFinite(pages)) {
      throw new VmmError('vmm_command_failed', 'Firecracker reported no balloon size');
    }
    return this.#memoryMibMax - pages / PAGES_PER_MIB;
  }
}
