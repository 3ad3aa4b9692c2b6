/** Kept responses as clients of the Responses API read, continue and delete them. Pure. */

import { accepted, type Checked, refused } from '../../../../base/http/refusal.ts';
import type { KeptAnswers, KeptItem } from '../../kept-answers.ts';
import type { KeptContext, KeptNeeds } from '../dialect.ts';

const LIMIT = 20;
const LIMIT_MAX = 100;
const SHOWN_CHARACTERS_MAX = 100;

export function findKept({ previous, items: wanted }: KeptNeeds, kept: KeptAnswers): Checked<KeptContext> {
  const earlier = previous === undefined ? [] : kept.conversation(previous);
  if (earlier === undefined) {
    const message = `Previous response with id ${quoted(previous)} not found. ${WHY}`;
    const param = 'previous_response_id';
    return refused(400, 'previous_response_not_found', message, { param });
  }
  const items: (readonly [string, string])[] = [];
  for (const id of new Set(wanted)) {
    const item = kept.item(id);
    if (item === undefined) {
      const message = `Item with id ${quoted(id)} not found. ${WHY}`;
      return refused(404, 'item_not_found', message, { param: 'input' });
    }
    items.push([id, item.json]);
  }
  const conversation = earlier.map(({ json }) => json);
  const characters = [...conversation, ...items.map(([, json]) => json)].reduce((sum, json) => sum + json.length, 0);
  return accepted({ conversation, items, characters });
}

const WHY =
  'The host keeps a bounded number, without those with "store": false, until the VM ends: send the whole input.';

export function readKept(kept: KeptAnswers, id: string): Checked<string> {
  const answer = kept.get(id);
  return answer === undefined ? notFound(id) : accepted(answer.json);
}

export function deleteKept(kept: KeptAnswers, id: string): Checked<string> {
  if (!kept.delete(id)) return notFound(id);
  return accepted(JSON.stringify({ id, object: 'response', deleted: true }));
}

/** Returns a page of the conversation up to the answer, newest item first unless `order` is `asc`. */
export function listKept(kept: KeptAnswers, id: string, query: URLSearchParams): Checked<string> {
  const answer = kept.get(id);
  if (answer === undefined) return notFound(id);
  const limit = Number(query.get('limit') ?? LIMIT);
  if (!Number.isInteger(limit) || limit < 1 || limit > LIMIT_MAX) {
    const message = `"limit" must be a whole number from 1 to ${LIMIT_MAX}.`;
    return refused(400, 'invalid_value', message, { param: 'limit' });
  }
  const order = query.get('order') ?? 'desc';
  if (order !== 'asc' && order !== 'desc') {
    const message = '"order" must be "asc" or "desc".';
    return refused(400, 'invalid_value', message, { param: 'order' });
  }
  const all = order === 'asc' ? answer.inputs : [...answer.inputs].reverse();
  const after = query.get('after');
  const start = after === null ? 0 : all.findIndex((item) => item.id === after) + 1;
  if (after !== null && start === 0) {
    const message = `"after" names no item of the response: ${quoted(after)}.`;
    return refused(400, 'invalid_value', message, { param: 'after' });
  }
  return accepted(page(all.slice(start, start + limit), start + limit < all.length));
}

/** Joins items without parsing: they are JSON already, and may be large. */
function page(items: readonly KeptItem[], hasMore: boolean): string {
  const data = items.map(({ json }) => json).join(',');
  const ids = { first_id: items[0]?.id ?? null, last_id: items.at(-1)?.id ?? null };
  const rest = JSON.stringify({ ...ids, has_more: hasMore });
  return `{"object":"list","data":[${data}],${rest.slice(1)}`;
}

function notFound(id: string): Checked<never> {
  const message = `Response with id ${quoted(id)} not found. ${WHY}`;
  return refused(404, 'response_not_found', message);
}

const quoted = (id: unknown): string => `'${String(id).slice(0, SHOWN_CHARACTERS_MAX)}'`;
