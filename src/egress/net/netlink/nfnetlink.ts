/**
 * Messages of nf_tables over netlink (linux/netfilter/nf_tables.h), for the table that a process's own socket owns;
 * everything else uses `nft`. Pure.
 */
import { type AttributeSpec, encodeAttributes, text } from './attribute.ts';
import { encodeMessage, FLAG } from './message.ts';
import { withAttributes } from './request.ts';

const SUBSYSTEM = 10 << 8;
const MESSAGE = { newTable: SUBSYSTEM | 0, newChain: SUBSYSTEM | 3, newRule: SUBSYSTEM | 6 } as const;
const BATCH = { begin: 0x10, end: 0x11 } as const;
/** struct nfgenmsg: u8 family, u8 version, u16 resource id (big-endian). */
const INET = Uint8Array.of(1, 0, 0, 0);
const OF_BATCH = Uint8Array.of(0, 0, 0, 10);
/** NLM_F_APPEND. */
const APPEND = 0x800;

const TABLE = { name: 1, flags: 2 } as const;
const TABLE_OWNER = 0x2;
const CHAIN = { table: 1, name: 3, hook: 4, policy: 5, type: 7 } as const;
const HOOK = { number: 1, priority: 2 } as const;
const RULE = { table: 1, chain: 2, expressions: 4 } as const;
const LIST_ELEMENT = 1;
const EXPRESSION = { name: 1, data: 2 } as const;
const META = { register: 1, key: 2 } as const;
export const META_KEY = { mark: 3, iifname: 6 } as const;
const CMP = { register: 1, operator: 2, data: 3 } as const;
const OPERATOR = { equal: 0, different: 1 } as const;
const IMMEDIATE = { register: 1, data: 2 } as const;
const DATA = { value: 1, verdict: 2 } as const;
const VERDICT_CODE = 1;
const REGISTER = { verdict: 0, first: 1 } as const;
const PREROUTING = 0;
const POLICY_ACCEPT = 1;
const NF_DROP = 0;

interface NftRequest {
  readonly type: number;
  readonly flags: number;
  readonly body: Uint8Array;
}

/** A table that only the sending socket can change, and that disappears with it; since Linux 5.12. */
export function ownTable(name: string): NftRequest {
  return request(MESSAGE.newTable, FLAG.exclusive, [
    [TABLE.name, text(name)],
    [TABLE.flags, be32(TABLE_OWNER)],
  ]);
}

export function preroutingChain(table: string, name: string, priority: number): NftRequest {
  return request(MESSAGE.newChain, FLAG.exclusive, [
    [CHAIN.table, text(table)],
    [CHAIN.name, text(name)],
    [
      CHAIN.hook,
      [
        [HOOK.number, be32(PREROUTING)],
        [HOOK.priority, be32(priority)],
      ],
    ],
    [CHAIN.policy, be32(POLICY_ACCEPT)],
    [CHAIN.type, text('filter')],
  ]);
}

export function rule(table: string, chain: string, expressions: readonly AttributeSpec[]): NftRequest {
  return request(MESSAGE.newRule, APPEND, [
    [RULE.table, text(table)],
    [RULE.chain, text(chain)],
    [RULE.expressions, expressions],
  ]);
}

/** Matches if the key begins with these bytes. */
export function metaBeginsWith(key: number, bytes: Uint8Array): AttributeSpec[] {
  return compare(key, OPERATOR.equal, bytes);
}

/** @param value u32, in host byte order */
export function metaDiffers(key: number, value: number): AttributeSpec[] {
  return compare(key, OPERATOR.different, new Uint8Array(Uint32Array.of(value).buffer));
}

export function counter(): AttributeSpec {
  return expression('counter', []);
}

export function drop(): AttributeSpec {
  return expression('immediate', [
    [IMMEDIATE.register, be32(REGISTER.verdict)],
    [IMMEDIATE.data, [[DATA.verdict, [[VERDICT_CODE, be32(NF_DROP)]]]]],
  ]);
}

/** Encodes one transaction; its parts are acknowledged in order, from `firstSequence` on. */
export function encodeBatch(requests: readonly NftRequest[], firstSequence: number, portId: number): Uint8Array {
  const frame = (type: number): Uint8Array =>
    encodeMessage({ type, flags: FLAG.request, sequence: 0, portId, body: OF_BATCH });
  const parts = requests.map(({ type, flags, body }, at) =>
    encodeMessage({
      type,
      body,
      portId,
      sequence: firstSequence + at,
      flags: flags | FLAG.request | FLAG.ack | FLAG.create,
    }),
  );
  return new Uint8Array(Buffer.concat([frame(BATCH.begin), ...parts, frame(BATCH.end)]));
}

function compare(key: number, operator: number, bytes: Uint8Array): AttributeSpec[] {
  return [
    expression('meta', [
      [META.register, be32(REGISTER.first)],
      [META.key, be32(key)],
    ]),
    expression('cmp', [
      [CMP.register, be32(REGISTER.first)],
      [CMP.operator, be32(operator)],
      [CMP.data, [[DATA.value, bytes]]],
    ]),
  ];
}

function expression(name: string, data: readonly AttributeSpec[]): AttributeSpec {
  return [
    LIST_ELEMENT,
    [
      [EXPRESSION.name, text(name)],
      [EXPRESSION.data, data],
    ],
  ];
}

function request(type: number, flags: number, attributes: readonly AttributeSpec[]): NftRequest {
  return { type, flags, body: withAttributes(INET, encodeAttributes(attributes)) };
}

/** nf_tables uses big-endian numbers. */
function be32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setInt32(0, value | 0);
  return bytes;
}
