/**
 * Firecracker's counters: one JSON line for each flush, with what was counted since the one before. The guest
 * causes the numbers, so sums are bounded and lines that make no sense are left out.
 */
import { ignore } from '../../../base/ignore.ts';

/** About 20 KB are usual. */
const LINE_BYTES_MAX = 256 * 1024;

export class MetricsReader {
  #rest = '';
  /** The line is too long: what is left of it is skipped. */
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

  /** Resolves with the next line. */
  next(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** Of a device and counter, e.g. `vsock`, `rx_bytes_count`. */
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

/** There are about 150. */
const SUMS_MAX = 1_000;

function parseObject(line: string): Record<string, unknown> {
  try {
    return asObject(JSON.parse(line));
  } catch (error) {
    ignore(error, 'a line of metrics was cut off or is nonsense');
    return {};
  }
}

function asObject(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}
