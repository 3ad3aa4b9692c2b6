/** Metrics of all ports. Names of packages are never labels. */
import { Counter, type Metric } from '../../base/metrics.ts';
import type { PackageFetch } from './fetch-record.ts';

export class PackageMetrics {
  readonly #fetches = new Counter('neurovisor_package_fetches_total', 'Pages and files of packages: ok, or why not.', [
    'ecosystem',
    'outcome',
    'source',
  ]);
  readonly #bytes = new Counter(
    'neurovisor_package_bytes_total',
    'Bytes of package files to sandboxes; `source`: cache or index.',
    ['ecosystem', 'source'],
  );

  list(): readonly Metric[] {
    return [this.#fetches, this.#bytes];
  }

  count({ ecosystem, outcome, cached, bytes }: PackageFetch): void {
    const source = cached ? 'cache' : 'index';
    this.#fetches.add({ ecosystem, outcome, source });
    this.#bytes.add({ ecosystem, source }, bytes);
  }
}
