/**
 * A second defense (io) for the time after another program has flushed the whole ruleset with our table: a table that a
 * socket of this process owns, which `nft flush ruleset` skips.
 *
 *     TAP ─► our table, from_ID: mark ─► guard: no mark? drop ─► our table, unmark ─► connection tracking …
 *
 * The guard disappears with the process; a VM that outlives it is confined by the shared table as before. No other
 * program sees the mark, which exists only between two priorities.
 */
import { SyscallError } from '../../../sys/libc.ts';
import { NETLINK, NetlinkSocket } from '../../../sys/netlink-socket.ts';
import { TAP_PREFIX } from '../addresses/address-plan.ts';
import { linkError } from '../netlink/errors.ts';
import { CONTROL, parseAcknowledgement, parseMessages } from '../netlink/message.ts';
import {
  counter,
  drop,
  encodeBatch,
  META_KEY,
  metaBeginsWith,
  metaDiffers,
  ownTable,
  preroutingChain,
  rule,
} from '../netlink/nfnetlink.ts';
import { GUARD_MARK, GUARD_PRIORITY } from './sandbox-chains.ts';
import type { TableOwner } from './table-owners.ts';

const GUARD_TABLE_PREFIX = 'neurovisor_guard_';
const CHAIN = 'unfiltered';
const FIRST_SEQUENCE = 1;

export class FlushGuard {
  readonly #socket: NetlinkSocket;

  /** @param owner this process @throws LinkError `not_permitted`; `unsupported` on a kernel before 5.12; `failed` */
  constructor(owner: TableOwner) {
    const attempt = 'guard the packet filter against a flush';
    try {
      this.#socket = new NetlinkSocket(NETLINK.netfilter);
    } catch (error) {
      throw error instanceof SyscallError ? linkError(attempt, error.code, error) : error;
    }
    try {
      this.#make(`${GUARD_TABLE_PREFIX}${owner.pid}_${owner.startTicks}`);
    } catch (error) {
      this.#socket.close();
      throw error instanceof SyscallError ? linkError(attempt, error.code, error) : error;
    }
  }

  /** Removes the table. Idempotent. */
  close(): void {
    this.#socket.close();
  }

  #make(table: string): void {
    const taps = metaBeginsWith(META_KEY.iifname, new TextEncoder().encode(TAP_PREFIX));
    const unmarked = metaDiffers(META_KEY.mark, GUARD_MARK);
    const requests = [
      ownTable(table),
      preroutingChain(table, CHAIN, GUARD_PRIORITY),
      rule(table, CHAIN, [...taps, ...unmarked, counter(), drop()]),
    ];
    this.#socket.send(encodeBatch(requests, FIRST_SEQUENCE, this.#socket.portId));
    let done = 0;
    for (let datagram = this.#socket.receive(); datagram; datagram = this.#socket.receive()) {
      for (const message of parseMessages(datagram)) {
        if (message.type !== CONTROL.error) continue;
        const { errno } = parseAcknowledgement(message);
        if (errno !== 0) throw new SyscallError(`make table ${table}`, errno);
        done += 1;
      }
    }
    if (done < requests.length) {
      throw linkError(`make table ${table}`, '', new Error(`${done} acknowledgements`));
    }
  }
}
