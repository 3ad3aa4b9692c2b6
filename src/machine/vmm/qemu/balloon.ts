/** The balloon of one VM (QMP `balloon`, `query-balloon`): returns pages of the guest to the host. */
import { MIB } from '../../../base/units.ts';
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
    // QEMU would clamp a larger value to all RAM, and take 0 as no memory.
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
      throw new VmmError('vmm_command_failed', 'QEMU reported no balloon size');
    }
    return actual / MIB;
  }
}
