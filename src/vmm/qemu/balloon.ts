/** The balloon of one VM (QMP `balloon`, `query-balloon`): pages that its guest has given up are given back to the host. */
import { MIB } from '../../base/units.ts';
import type { Balloon } from '../driver.ts';
import { VmmError } from '../errors.ts';
import type { QmpClient } from './qmp.ts';

export class QemuBalloon implements Balloon {
  readonly #qmp: QmpClient;
  readonly #memoryMibMax: number;

  /** @param memoryMibMax RAM of the VM */
  constructor(qmp: QmpClient, memoryMibMax: number) {
    this.#qmp = qmp;
    this.#memoryMibMax = memoryMibMax;
  }

  async setMemory(memoryMib: number): Promise<void> {
    // QEMU takes more for all that there is, and 0 for nothing at all.
    if (!(memoryMib > 0 && memoryMib <= this.#memoryMibMax)) {
      const cause = `${memoryMib} MiB of ${this.#memoryMibMax}`;
      throw new VmmError('vm_spec_invalid', "the VM's memory can't be changed", { cause });
    }
    await this.#qmp.execute('balloon', { value: Math.floor(memoryMib * MIB) });
  }

  async memoryMib(): Promise<number> {
    const answer = await this.#qmp.execute('query-balloon');
    const { actual } = (answer ?? {}) as { actual?: unknown };
    if (typeof actual !== 'number' || !Number.isFinite(actual)) {
      throw new VmmError('vmm_command_failed', 'QEMU does not tell how large a balloon is');
    }
    return actual / MIB;
  }
}
