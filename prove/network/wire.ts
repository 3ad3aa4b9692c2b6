/** A TAP whose other end is this program: it sends only what we write (I/O). */
import { sleep } from '../../src/base/clock.ts';
import type { Links } from '../../src/egress/net/link/links.ts';
import { confineLink } from '../../src/egress/net/link/settings.ts';
import { closeFd, read, writeBytes } from '../../src/sys/fd.ts';
import { allocateNative } from '../../src/sys/memory.ts';
import { createTap } from '../../src/sys/tun.ts';
import { isEcho } from '../frames.ts';

const FRAME_BYTES_MAX = 65_536;
/** Time after which a frame counts as missing. */
const WAIT_MS = 5_000;

interface WireSpec {
  readonly name: string;
  readonly address: string;
  readonly mac: string;
}

export class Wire implements Disposable {
  readonly linkIndex: number;
  readonly #fd: number;
  readonly #frame = allocateNative(FRAME_BYTES_MAX);

  /** @throws LinkError, SyscallError */
  constructor(links: Links, { name, address, mac }: WireSpec) {
    this.#fd = createTap({ name });
    this.linkIndex = links.find(name)?.index ?? 0;
    confineLink(name);
    links.change(this.linkIndex, { mac });
    links.addAddress({ linkIndex: this.linkIndex, address, prefixLength: 30 });
    links.change(this.linkIndex, { up: true });
  }

  /** Sends frames to the host, which has processed them when this returns. */
  send(...frames: Buffer[]): void {
    for (const frame of frames) writeBytes(this.#fd, frame);
  }

  /** Waits for `count` echoes or replies from the host. @throws Error if they do not come */
  async receive(count: number): Promise<void> {
    for (let waitedMs = 0, missing = count; missing > 0; ) {
      const bytes = read(this.#fd, this.#frame.address, FRAME_BYTES_MAX);
      if (bytes > 0) {
        if (isEcho(Buffer.from(this.#frame.buffer, 0, bytes))) missing -= 1;
        continue;
      }
      if (waitedMs >= WAIT_MS) throw new Error(`${missing} of ${count} frames did not come`);
      await sleep(1);
      waitedMs += 1;
    }
  }

  [Symbol.dispose](): void {
    closeFd(this.#fd);
  }
}
