/** Memory events of a host's kernel about its VMMs; the same for every VM. */
import type { HostMemoryEvent, HostMemoryEvents } from '../../src/sandbox/contract/memory-events.ts';

export class FakeHostMemory implements HostMemoryEvents {
  kills = 0;
  readonly #listeners = new Set<(event: HostMemoryEvent) => void>();

  listen(listener: (event: HostMemoryEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  get listeners(): number {
    return this.#listeners.size;
  }

  emit(event: HostMemoryEvent): void {
    for (const listener of this.#listeners) listener(event);
  }

  oomKills(): number {
    return this.kills;
  }
}
