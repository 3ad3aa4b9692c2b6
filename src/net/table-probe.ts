/** What is in the table of ours (io): a question each to netfilter over netlink, without a child process. */
import { SyscallError } from '../sys/libc.ts';
import { NETLINK, NetlinkSocket } from '../sys/netlink-socket.ts';
import { linkError } from './link-errors.ts';
import { encodeAttributes, findAttribute, parseAttributes, text } from './netlink-attribute.ts';
import { NetlinkExchange } from './netlink-exchange.ts';
import { FLAG } from './netlink-message.ts';
import { TABLE_NAME } from './nft-json.ts';
import { withAttributes } from './rtnetlink-request.ts';

/** linux/netfilter/nfnetlink.h and nf_tables.h: NFNL_SUBSYS_NFTABLES above NFT_MSG_GETOBJ. */
const GET_OBJECT = (10 << 8) | 19;
/** enum nft_object_attributes; types are of NFT_OBJECT_*, big-endian as all numbers of nf_tables. */
const OBJECT = { table: 1, name: 2, type: 3, data: 4 } as const;
const COUNTER = 1;
const QUOTA = 2;
/** enum nft_quota_attributes; u64. The kernel tells no more than the quota has. */
const QUOTA_CONSUMED = 4;
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
    return this.#get(COUNTER, counter) !== undefined;
  }

  /** Bytes; undefined where there is none of that name. @throws LinkError; SyscallError */
  quotaUsed(quota: string): number | undefined {
    const message = this.#get(QUOTA, quota);
    if (message === undefined) return undefined;
    const attributes = parseAttributes(message.subarray(BODY.length));
    const data = findAttribute(attributes, OBJECT.data);
    const used = data && findAttribute(parseAttributes(data), QUOTA_CONSUMED);
    if (used?.length !== 8) throw linkError(`read quota ${quota}`, '', new Error('it has no use'));
    return Number(new DataView(used.buffer, used.byteOffset).getBigUint64(0));
  }

  /** @returns what the kernel tells of it; undefined where it is not there */
  #get(type: number, name: string): Uint8Array | undefined {
    this.#sequence = (this.#sequence + 1) >>> 0;
    const attributes = encodeAttributes([
      [OBJECT.table, text(TABLE_NAME)],
      [OBJECT.name, text(name)],
      [OBJECT.type, Uint8Array.of(0, 0, 0, type)],
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
    const attempt = `look for ${name} in table ${TABLE_NAME}`;
    if (outcome === undefined) throw linkError(attempt, '', new Error('no whole answer'));
    if (outcome.kind === 'done') return outcome.messages[0]?.body ?? new Uint8Array();
    const cause = new SyscallError(attempt, outcome.acknowledgement.errno);
    if (cause.code === ENOENT) return undefined;
    throw linkError(attempt, cause.code, cause);
  }

  close(): void {
    this.#socket.close();
  }
}
