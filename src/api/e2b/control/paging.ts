/**
 * Pages of lists. A token names the last item of the previous page, so added and removed items shift no others. Pure.
 */
import { E2bError } from '../errors.ts';
import { E2B_LIMITS } from '../limits.ts';

export interface Item {
  readonly id: string;
  readonly createdAtMs: number;
}

export interface Page<T> {
  readonly items: readonly T[];
  /** `null` on the last page. */
  readonly nextToken: string | null;
}

export interface PageQuery {
  readonly limit?: number | undefined;
  readonly nextToken?: string | undefined;
  /** By creation time. Default: newest first. */
  readonly order?: 'asc' | 'desc' | undefined;
}

/** @throws E2bError 400 for a foreign token */
export function pageOf<T extends Item>(all: readonly T[], query: PageQuery): Page<T> {
  const { limit = E2B_LIMITS.pageMax, nextToken, order = 'desc' } = query;
  const sign = order === 'asc' ? 1 : -1;
  const byOrder = (a: Item, b: Item): number => sign * compare(a, b);
  const after = nextToken === undefined ? null : parseToken(nextToken);
  const rest = all.filter((item) => after === null || byOrder(item, after) > 0).sort(byOrder);
  const items = rest.slice(0, limit);
  const last = items.at(-1);
  const isLast = last === undefined || rest.length <= limit;
  return { items, nextToken: isLast ? null : formatToken(last) };
}

function compare(a: Item, b: Item): number {
  if (a.createdAtMs !== b.createdAtMs) return a.createdAtMs - b.createdAtMs;
  return a.id < b.id ? -1 : Number(a.id > b.id);
}

const formatToken = ({ id, createdAtMs }: Item): string => Buffer.from(`${createdAtMs}/${id}`).toString('base64url');

const TOKEN = /^(\d{1,16}(?:\.\d{1,16})?)\/([a-z0-9]{1,64})$/;

function parseToken(token: string): Item {
  const [, time = '', id = ''] = TOKEN.exec(Buffer.from(token, 'base64url').toString()) ?? [];
  if (id !== '') return { id, createdAtMs: Number(time) };
  throw new E2bError(400, 'nextToken: not a token of an earlier page');
}
