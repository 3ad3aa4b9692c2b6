/**
 * The owners of the table's entries. Several processes share the table, and each may be killed at any moment. So each
 * sandbox has a counter that counts nothing, and whose name holds everything needed to remove the sandbox:
 *
 *     owner/<sandbox id>/<pid>.<start>/<TAP>/<address of the /30>
 *
 * A comment would not work, since `nft` before 1.0.7 has none in JSON. Pure.
 */
import { parseSandboxId } from '../../../base/ids.ts';
import { type AddressLease, SUBNET_PREFIX } from '../addresses/address-plan.ts';
import { formatAddress, parseAddress } from '../addresses/addresses.ts';
import { type NftObject, TABLE_FAMILY, TABLE_NAME } from './json.ts';

export const LAYOUT_COUNTER = 'layout_2';
const LAYOUT = /^layout_\d+$/;

/** A process, as in the alias of a TAP (`LinkOwner`). */
export interface TableOwner {
  readonly pid: number;
  /** Field 22 of /proc/<pid>/stat (proc(5)). */
  readonly startTicks: string;
}

interface TableEntry {
  readonly owner: TableOwner;
  readonly lease: Pick<AddressLease, 'id' | 'tap' | 'subnet'>;
}

export interface TableContents {
  /** `none`: no table, or one that NeuroVisor did not create. */
  readonly layout: 'ours' | 'other' | 'none';
  readonly entries: readonly TableEntry[];
}

const MARK = /^owner\/([a-z0-9]+)\/([1-9]\d{0,9})\.(\d{1,20})\/(nv-[a-z0-9]{1,12})\/([\d.]+)$/;

export function ownerCounter({ id, tap, subnet }: TableEntry['lease'], { pid, startTicks }: TableOwner): string {
  const address = formatAddress({ family: 4, value: subnet.base });
  return `owner/${id}/${pid}.${startTicks}/${tap}/${address}`;
}

/** @param objects from `nft -j list counters`; those of other tables are ignored */
export function readContents(objects: readonly NftObject[]): TableContents {
  const names = objects.flatMap(({ counter }) => ourName(counter));
  const layouts = names.filter((name) => LAYOUT.test(name));
  const isOurs = layouts.includes(LAYOUT_COUNTER);
  return { layout: isOurs ? 'ours' : layouts.length > 0 ? 'other' : 'none', entries: names.flatMap(entryOf) };
}

function ourName(counter: unknown): string[] {
  if (typeof counter !== 'object' || counter === null) return [];
  const { family, table, name } = counter as Readonly<Record<string, unknown>>;
  const isOurs = family === TABLE_FAMILY && table === TABLE_NAME && typeof name === 'string';
  return isOurs ? [name] : [];
}

function entryOf(name: string): TableEntry[] {
  const [, idText = '', pid = '', startTicks = '', tap = '', text = ''] = MARK.exec(name) ?? [];
  const id = parseSandboxId(idText);
  const address = parseAddress(text);
  if (id === undefined || address?.family !== 4) return [];
  const subnet = { family: 4, base: address.value, prefix: SUBNET_PREFIX } as const;
  return [{ owner: { pid: Number(pid), startTicks }, lease: { id, tap, subnet } }];
}
