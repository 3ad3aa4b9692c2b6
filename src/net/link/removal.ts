/**
 * Removes TAPs (io). The kernel waits three times until every processor has let go of a link, 20 ms in all, and
 * removes one after the other; but a group of links at once, with the same waits. So those that come while one
 * is being removed go together.
 */
import { ignore } from '../../base/ignore.ts';
import { LinkError } from '../netlink/errors.ts';
import type { Links } from './links.ts';
import type { Tap } from './tap.ts';

/** Links of one call; a table of the kernel's is locked for so long. */
const GROUP_LINKS_MAX = 256;
/** Groups are numbers that users choose, 0 for none: "NV" and 16 bits of ours. */
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

  /** @param pid of this process */
  constructor(links: Pick<Links, 'find' | 'change' | 'remove' | 'removeGroup'>, pid: number) {
    this.#links = links;
    this.#group = GROUP_BASE + (pid & 0xffff);
  }

  /**
   * It is gone afterwards, even where a VMM that still runs has a descriptor of it, and ours is closed.
   * @throws LinkError
   */
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
      await Promise.all(
        batch.map(({ tap, resolve, reject }) => this.#removeOne(tap).then(resolve, reject)),
      );
    }
    this.#isRunning = false;
  }

  /** Whatever of it fails, each is looked after by itself afterwards. */
  async #removeGroup(batch: readonly Waiting[]): Promise<void> {
    let isAny = false;
    for (const { tap } of batch) {
      try {
        const link = this.#links.find(tap.name);
        if (link === undefined) continue;
        this.#links.change(link.index, { group: this.#group });
        isAny = true;
      } catch (error) {
        ignore(error, 'a TAP that the kernel has removed');
      }
    }
    try {
      if (isAny) await this.#links.removeGroup(this.#group);
    } catch (error) {
      ignore(error, 'TAPs that are removed one by one');
    }
  }

  /** With our descriptor it goes, unless a VMM has another. */
  async #removeOne({ name, close }: RemovableTap): Promise<void> {
    await close();
    // By its name: one that was lent and did not come back has left its number to whoever made a link meanwhile.
    const link = this.#links.find(name);
    if (link !== undefined) removeLink(this.#links, link.index);
  }
}

/** Fine where it is gone. @throws LinkError */
export function removeLink(links: Pick<Links, 'find' | 'remove'>, linkIndex: number): void {
  if (links.find(linkIndex) === undefined) return;
  try {
    links.remove(linkIndex);
  } catch (error) {
    if (!(error instanceof LinkError && error.code === 'not_found')) throw error;
    ignore(error, 'the kernel has removed the TAP');
  }
}
