/** Changes a JSON object somewhere in an input as a value: changed bytes would nearly never be JSON again. */
import type { Random } from './mutate.ts';

const DEPTH_MAX = 200;
const VALUES = [null, true, false, 0, -1, 1.5, 2 ** 53, 1e308, '', '\ud800', [], {}];
const KEYS = ['__proto__', 'constructor', 'type', 'length', ''];

interface Place {
  readonly holder: Record<string, unknown>;
  readonly key: string;
}

/** @returns undefined if there is no object */
export function changeJson(bytes: Uint8Array, random: Random, words: readonly string[]): Uint8Array | undefined {
  const text = Buffer.from(bytes).toString('latin1');
  const starts = [...text.matchAll(/\{/g)].map(({ index }) => index);
  const below = (end: number): number => Math.floor(random() * end);
  // The first one is often the whole.
  const start = starts[random() < 0.5 ? 0 : below(starts.length)];
  if (start === undefined) return undefined;
  const end = endOf(text, start);
  const root = { value: parsed(Buffer.from(text.slice(start, end), 'latin1').toString('utf8')) };
  if (root.value === undefined) return undefined;
  const places = placesIn(root);
  const pick = <T>(list: readonly T[]): T | undefined => list[below(list.length)];
  const place = pick(places);
  if (place === undefined) return undefined;
  const { holder, key } = place;
  const other = pick(places);
  switch (below(6)) {
    case 0:
      define(holder, key, pick(VALUES));
      break;
    case 1:
      if (other !== undefined) define(holder, key, structuredClone(other.holder[other.key]));
      break;
    case 2:
      delete holder[key];
      break;
    case 3:
      define(holder, pick([...KEYS, ...words]) ?? key, structuredClone(holder[key]));
      break;
    case 4:
      define(holder, key, pick(words) ?? 'x');
      break;
    default:
      if (typeof holder[key] === 'number') define(holder, key, holder[key] + below(5) - 2);
      else define(holder, key, below(2) === 0 ? [holder[key]] : { [key]: holder[key] });
  }
  const changed = Buffer.from(JSON.stringify(root.value) ?? 'null', 'utf8').toString('latin1');
  return Buffer.from(text.slice(0, start) + changed + text.slice(end), 'latin1');
}

/** Index after the brace that closes the one at `start`. */
function endOf(text: string, start: number): number {
  let depth = 0;
  let isInString = false;
  for (let at = start; at < text.length; at += 1) {
    const character = text[at];
    if (isInString) {
      if (character === '\\') at += 1;
      else if (character === '"') isInString = false;
    } else if (character === '"') isInString = true;
    else if (character === '{') depth += 1;
    else if (character === '}') {
      depth -= 1;
      if (depth === 0) return at + 1;
    }
  }
  return text.length;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Places of the values; arrays are holders too. */
function placesIn(root: Record<string, unknown>): readonly Place[] {
  const places: Place[] = [];
  const walk = (holder: Record<string, unknown>, depth: number): void => {
    for (const [key, value] of Object.entries(holder)) {
      places.push({ holder, key });
      if (typeof value === 'object' && value !== null && depth < DEPTH_MAX)
        walk(value as Record<string, unknown>, depth + 1);
    }
  };
  walk(root, 0);
  return places;
}

/** Also `__proto__`, as a key of its own. */
function define(holder: Record<string, unknown>, key: string, value: unknown): void {
  if (Array.isArray(holder) && !Object.hasOwn(holder, key)) holder.push(value);
  else if (Array.isArray(holder) && key === 'length') holder.length = 0;
  else Object.defineProperty(holder, key, { value, enumerable: true, configurable: true, writable: true });
}
