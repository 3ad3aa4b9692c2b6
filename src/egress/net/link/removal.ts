/**
 * Removes TAPs (io). For each link, the kernel waits until every processor has released it, 20 ms in all, but removes a
 * group of links in the same time. So TAPs that arrive while one is being removed are removed together.
 */
import { ignore } from '../../../base/ignore.ts';
import { LinkError } from '../netlink/errors.ts';
import type { Links } from './links.ts';
import type { Tap } from './tap.ts';

/** Links per call, during which the kernel holds a lock. */
const GROUP_LINKS_MAX = 256;
/** Users choose group numbers, 0 for none: ours are "NV" and 16 bits. */
const GROUP_BASE = 0x4e56_0000;

type RemovableTap = Pick<Tap, 'name' | 'close'>;

interface Waiting {
  readonly tap: RemovableTap;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

export class LinkRemoval {
  readonly #links: Pick<Links, 'find' | 'change' | 'remove' | 'removeGroup'>;
  readonly #group: number;
  readonly #waiting: Waiting[] = [];
  #isRunning = false;

  constructor(links: Pick<Links, 'find' | 'change' | 'remove' | 'removeGroup'>, pid: number) {
    this.#links = links;
    this.#group = GROUP_BASE + (pid & 0xffff);
  }

  /** Removes the TAP, even if a running VMM has a descriptor of it, and closes ours. @throws LinkError */
  remove(tap: RemovableTap): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ tap, resolve, reject });
      if (!this.#isRunning) void this.#run();
    });
  }

  async #run(): Promise<void> {
    this.#isRunning = true;
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.splice(0, GROUP_LINKS_MAX);
      if (batch.length > 1) await this.#removeGroup(batch);
      await Promise.all(batch.map(({ tap, resolve, reject }) => this.#removeOne(tap).then(resolve, reject)));
    }
    this.#isRunning = false;
  }

  /** Never throws: afterwards, each TAP that still exists is removed alone. */
  async #removeGroup(batch: readonly Waiting[]): Promise<void> {
    let isAny = false;
    for (const { tap } of batch) {
      try {
        const link = this.#links.find(tap.name);
        if (link === undefined) continue;
        this.#links.change(link.index, { group: this.#group });
        isAny = true;
      } catch (error) {
        ignore(error, 'the kernel has removed the TAP');
      }
    }
    try {
      if (isAny) await this.#links.removeGroup(this.#group);
    } catch (error) {
      ignore(error, 'remove the TAPs one by one');
    }
  }

  /** Closing our descriptor removes the TAP, unless a VMM has another. */
  async #removeOne({ name, close }: RemovableTap): Promise<void> {
    await close();
    // Checked by name: after a failed loan, another link may have the TAP's index.
    const link = this.#links.find(name);
    if (link !== undefined) removeLink(this.#links, link.index);
  }
}

/** Does nothing if the link is gone. @throws LinkError */
export function removeLink(links: Pick<Links, 'find' | 'remove'>, linkIndex: number): void {
  if (links.find(linkIndex) === undefined) return;
  try {
    links.remove(linkIndex);
  } catch (error) {
    if (!(error instanceof LinkError && error.code === 'not_found')) throw error;
    ignore(error, 'the kernel has removed the TAP');
  }
}
