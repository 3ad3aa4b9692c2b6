/**
 * Makes text of a guest, a VMM or a model server safe for a terminal: control and format characters could steer it, or
 * hide and reorder text. Pure.
 */
const STEERING = /[\p{Cc}\p{Cf}\u2028\u2029]/gu;

/** One line: a line break or tab becomes a space, other control characters `?`. */
export function plain(text: string): string {
  return text.replaceAll(STEERING, (char) => (char === '\n' || char === '\t' ? ' ' : '?'));
}

/** Keeps line breaks and tabs; other control characters become `?`. */
export function plainLines(text: string): string {
  return text.replaceAll('\r\n', '\n').replaceAll(STEERING, (char) => (char === '\n' || char === '\t' ? char : '?'));
}

/**
 * JSON without control characters except its own line breaks: the others are escaped, and the text parses to the same
 * value.
 */
export function plainJson(value: unknown, indent?: number): string {
  return JSON.stringify(value, null, indent).replaceAll(STEERING, (char) =>
    char === '\n' ? char : Array.from({ length: char.length }, (_, at) => escaped(char, at)).join(''),
  );
}

const escaped = (text: string, at: number): string => `\\u${text.charCodeAt(at).toString(16).padStart(4, '0')}`;
