/** Pure. */

const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\]:]/g;

/**
 * The first key that an object of a JSON text has twice: `JSON.parse` keeps the last and is silent.
 * @param json a text that `JSON.parse` takes
 */
export function duplicateKey(json: string): string | undefined {
  /** Of each object that is open, its keys; null for an array. */
  const open: (Set<unknown> | null)[] = [];
  let text: string | undefined;
  for (const [token] of json.matchAll(TOKEN)) {
    if (token === '{') open.push(new Set());
    else if (token === '[') open.push(null);
    else if (token === '}' || token === ']') open.pop();
    else if (token === ':' && text !== undefined) {
      // As a value, since a letter can be written in two ways.
      const key: unknown = JSON.parse(text);
      const keys = open.at(-1);
      if (keys?.has(key)) return String(key);
      keys?.add(key);
    }
    text = token.startsWith('"') ? token : undefined;
  }
  return undefined;
}
