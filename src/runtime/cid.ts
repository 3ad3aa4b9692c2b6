/**
 * Guest context ids. Our vhost-user devices are private to their VM, so two VMs with one CID do not
 * clash on the wire; ids still differ within a process, for logs and for hosts that use vhost-vsock too.
 */
const FIRST_GUEST_CID = 3;
const CID_SPAN = 1 << 30;

export class CidPool {
  readonly #used = new Set<number>();
  #next: number;

  /** @param seed where to begin, so that processes side by side rarely meet */
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
