/** Whether what is ours is in the table (io): one question to netfilter over netlink, without a child process. */
import { SyscallError } from '../sys/libc.ts';
import { NETLINK, NetlinkSocket } from '../sys/netlink-socket.ts';
import { linkError } from './link-errors.ts';
import { encodeAttributes, text } from './netlink-attribute.ts';
import { NetlinkExchange } from './netlink-exchange.ts';
import { FLAG } from './netlink-message.ts';
import { TABLE_NAME } from './nft-json.ts';
import { withAttributes } from './rtnetlink-request.ts';

/** linux/netfilter/nfnetlink.h and nf_tables.h: NFNL_SUBSYS_NFTABLES above NFT_MSG_GETOBJ. */
const GET_OBJECT = (10 << 8) | 19;
/** enum nft_object_attributes; the type is NFT_OBJECT_COUNTER, big-endian. */
const OBJECT = { table: 1, name: 2, type: 3 } as const;
const COUNTER = Uint8Array.of(0, 0, 0, 1);
/** struct nfgenmsg: u8 family (NFPROTO_INET), u8 version, u16 of no meaning here. */
const BODY = Uint8Array.of(1, 0, 0, 0);
const ENOENT = 'ENOENT';

export class TableProbe {
  readonly #socket: NetlinkSocket;
  #sequence = 0;

  /** @throws LinkError `not_permitted`, `unsupported`, `failed` */
  constructor() {
    try {
      this.#socket = new NetlinkSocket(NETLINK.netfilter);
    } catch (error) {
      throw error instanceof SyscallError
        ? linkError('open a netlink socket', error.code, error)
        : error;
    }
  }

  /**
   * @param counter that nobody else has: another process may have made the table anew, without us
   * @throws LinkError; SyscallError
   */
  hasCounter(counter: string): boolean {
    this.#sequence = (this.#sequence + 1) >>> 0;
    const attributes = encodeAttributes([
      [OBJECT.table, text(TABLE_NAME)],
      [OBJECT.name, text(counter)],
      [OBJECT.type, COUNTER],
    ]);
    const request = {
      type: GET_OBJECT,
      flags: FLAG.ack,
      body: withAttributes(BODY, attributes),
    };
    const exchange = new NetlinkExchange(request, this.#sequence, this.#socket.portId);
    this.#socket.send(exchange.output);
    for (let datagram = this.#socket.receive(); datagram; datagram = this.#socket.receive()) {
      exchange.receive(datagram);
      if (exchange.outcome !== undefined) break;
    }
    const { outcome } = exchange;
    const attempt = `look for ${counter} in table ${TABLE_NAME}`;
    if (outcome === undefined) throw linkError(attempt, '', new Error('no whole answer'));
    if (outcome.kind === 'done') return true;
    const cause = new SyscallError(attempt, outcome.acknowledgement.errno);
    if (cause.code === ENOENT) return false;
    throw linkError(attempt, cause.code, cause);
  }

  close(): void {
    this.#socket.close();
  }
}
