/** Metrics of all ports. Names of packages are never labels. */
import { Counter, type Metric } from '../../base/metrics.ts';
import type { PackageFetch } from './fetch-record.ts';

export class PackageMetrics {
  readonly #fetches = new Counter({
    name: 'neurovisor_package_fetches_total',
    help: 'Pages and files of packages that sandboxes asked for, by outcome: ok, or why not.',
    unit: null,
    labels: ['ecosystem', 'outcome', 'source'],
    seriesMax: 200,
  });
  readonly #bytes = new Counter({
    name: 'neurovisor_package_bytes_total',
    help: 'Bytes of package files sent to sandboxes; `source` is cache or index.',
    unit: 'bytes',
    labels: ['ecosystem', 'source'],
  });

  list(): readonly Metric[] {
    return [this.#fetches, this.#bytes];
  }

  count({ ecosystem, outcome, cached, bytes }: PackageFetch): void {
    const source = cached ? 'cache' : 'index';
    this.#fetches.add({ ecosystem, outcome, source });
    this.#bytes.add({ ecosystem, source }, bytes);
  }
}
