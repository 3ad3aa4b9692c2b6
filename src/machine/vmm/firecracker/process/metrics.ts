/**
 * Firecracker's counters: one JSON line per flush, with the counts since the last one. The guest causes the numbers, so
 * sums are bounded and invalid lines are dropped.
 */
import { tryOr } from '../../../../base/ignore.ts';

/** Usually about 20 KB. */
const LINE_BYTES_MAX = 256 * 1024;

export class MetricsReader {
  #rest = '';
  /** The line is too long; its rest is skipped. */
  #isSkipping = false;
  #waiting: (() => void)[] = [];
  readonly #sums = new Map<string, number>();

  push(bytes: Buffer): void {
    const lines = (this.#rest + bytes.toString('utf8')).split('\n');
    this.#rest = lines.pop() ?? '';
    for (const line of lines) {
      if (!this.#isSkipping) this.#count(line);
      this.#isSkipping = false;
    }
    if (this.#rest.length > LINE_BYTES_MAX) {
      this.#rest = '';
      this.#isSkipping = true;
    }
  }

  next(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** Sum of a device's counter, for example `vsock`, `rx_bytes_count`. */
  sum(device: string, counter: string): number {
    return this.#sums.get(`${device} ${counter}`) ?? 0;
  }

  #count(line: string): void {
    const parsed = parseObject(line);
    for (const device of ['vsock', 'net', 'block', 'vmm', 'seccomp', 'balloon', 'entropy']) {
      for (const [counter, value] of Object.entries(asObject(parsed[device]))) {
        if (typeof value !== 'number' || !(value > 0)) continue;
        const key = `${device} ${counter}`;
        if (!this.#sums.has(key) && this.#sums.size >= SUMS_MAX) continue;
        const sum = (this.#sums.get(key) ?? 0) + value;
        this.#sums.set(key, Math.min(sum, Number.MAX_SAFE_INTEGER));
      }
    }
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}

/** Firecracker has about 150 counters. */
const SUMS_MAX = 1_000;

function parseObject(line: string): Record<string, unknown> {
  return tryOr({}, 'a line of metrics is truncated or invalid', () => asObject(JSON.parse(line)));
}

function asObject(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}
