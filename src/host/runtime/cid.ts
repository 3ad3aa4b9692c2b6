/**
 * Lowest CID for guests. Our vhost-user devices are private to their VM, so VMs with equal CIDs do not conflict; ids
 * still differ within a process, for logs and for hosts that also use vhost-vsock.
 */
const FIRST_GUEST_CID = 3;
const CID_SPAN = 1 << 30;

export class CidPool {
  readonly #used = new Set<number>();
  #next: number;

  /** @param seed the first id, random so that concurrent processes rarely use the same ids */
  constructor(seed: number) {
    this.#next = seed % CID_SPAN;
  }

  allocate(): { readonly cid: number; release(): void } {
    let cid: number;
    do {
      cid = FIRST_GUEST_CID + this.#next;
      this.#next = (this.#next + 1) % CID_SPAN;
    } while (this.#used.has(cid));
    this.#used.add(cid);
    return { cid, release: () => void this.#used.delete(cid) };
  }
}
