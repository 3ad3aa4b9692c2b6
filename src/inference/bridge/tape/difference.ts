/** Describes how a request differs from the most similar recorded one. Pure. */
import { isJsonObject } from '../json-body.ts';
import type { TapedRequest } from './normal-form.ts';

/**
 * Limit of values compared for one answer: a guest that asks for what is not recorded must not keep the bridge busy.
 */
const COMPARED_MAX = 200_000;
const SHOWN_MAX = 3;
const VALUE_CHARACTERS_MAX = 60;
const CONTEXT_CHARACTERS = 15;

interface Difference {
  readonly path: string;
  readonly recorded: unknown;
  readonly asked: unknown;
}

/** Returns one sentence. Both requests must be in normal form. */
export function describeNearest(recorded: readonly TapedRequest[], asked: TapedRequest): string {
  if (recorded.length === 0) return 'The cassette has no requests.';
  let left = COMPARED_MAX;
  let nearest: { readonly index: number; readonly found: readonly Difference[] } | undefined;
  for (const [index, request] of recorded.entries()) {
    if (left <= 0) break;
    const comparison = new Comparison(left);
    comparison.compare('', fieldsOf(request), fieldsOf(asked));
    left = comparison.left;
    if (nearest === undefined || comparison.found.length < nearest.found.length) {
      nearest = { index, found: comparison.found };
    }
  }
  const { index = 0, found = [] } = nearest ?? {};
  const shown = found.slice(0, SHOWN_MAX).map(text).join('; ');
  const more = found.length > SHOWN_MAX ? `; and ${found.length - SHOWN_MAX} more` : '';
  return `The nearest of ${recorded.length} recorded requests is number ${index + 1}, which differs in ${shown}${more}.`;
}

/** The body's fields together with the request's own. */
function fieldsOf({ body, ...request }: TapedRequest): object {
  return { ...body, ...request };
}

class Comparison {
  readonly found: Difference[] = [];
  left: number;

  constructor(left: number) {
    this.left = left;
  }

  compare(path: string, recorded: unknown, asked: unknown): void {
    this.left -= 1;
    if (this.left <= 0 || Object.is(recorded, asked)) return;
    if (Array.isArray(recorded) && Array.isArray(asked)) {
      for (let i = 0; i < Math.max(recorded.length, asked.length); i += 1) {
        this.compare(`${path}[${i}]`, recorded[i], asked[i]);
      }
    } else if (isJsonObject(recorded) && isJsonObject(asked)) {
      for (const name of new Set([...Object.keys(recorded), ...Object.keys(asked)])) {
        const at = path === '' ? name : `${path}.${name}`;
        this.compare(at, own(recorded, name), own(asked, name));
      }
    } else {
      this.found.push({ path, recorded, asked });
    }
  }
}

/** Names come from guests, so inherited members must not be found. */
const own = (value: object, name: string): unknown =>
  Object.hasOwn(value, name) ? Reflect.get(value, name) : undefined;

function text({ path, recorded, asked }: Difference): string {
  const from = typeof recorded === 'string' && typeof asked === 'string' ? start(recorded, asked) : 0;
  return `${shorten(path, 0)}: recorded ${shown(recorded, from)}, asked ${shown(asked, from)}`;
}

function start(a: string, b: string): number {
  let at = 0;
  while (at < a.length && a[at] === b[at]) at += 1;
  return at > VALUE_CHARACTERS_MAX / 2 ? at - CONTEXT_CHARACTERS : 0;
}

function shown(value: unknown, from: number): string {
  if (value === undefined) return 'nothing';
  if (typeof value === 'string') return JSON.stringify(shorten(value, from).toWellFormed());
  if (Array.isArray(value)) return `a list of ${value.length}`;
  return isJsonObject(value) ? 'an object' : JSON.stringify(value);
}

function shorten(value: string, from: number): string {
  const part = value.slice(from, from + VALUE_CHARACTERS_MAX);
  const rest = from + VALUE_CHARACTERS_MAX < value.length ? '…' : '';
  return `${from > 0 ? '…' : ''}${part}${rest}`;
}
