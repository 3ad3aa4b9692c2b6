/** The last model requests of a sandbox, oldest first. */
import type { UsageRecord } from '../../inference/bridge/bridge.ts';

const RECORDS_MAX = 256;

export class UsageLog {
  readonly #records: UsageRecord[] = [];

  get records(): readonly UsageRecord[] {
    return this.#records;
  }

  note(record: UsageRecord): void {
    this.#records.push(record);
    if (this.#records.length > RECORDS_MAX) this.#records.shift();
  }
}
