/** Reads an answer of Firecracker's API, which is not trusted. Pure. */

export type ApiAnswer =
  /** Parsed JSON, or `null` without a body. */
  | { readonly kind: 'value'; readonly value: unknown }
  /** @see FirecrackerApiError.fault */
  | { readonly kind: 'refused' | 'invalid'; readonly fault: string };

const FAULT_LENGTH_MAX = 1_000;
const SHOWN_LENGTH_MAX = 80;

export function readAnswer(status: number, body: string): ApiAnswer {
  const answer = parseAnswer(body);
  if (status >= 400) return { kind: 'refused', fault: faultOf(answer, body) };
  if (status === 204 && body === '') return { kind: 'value', value: null };
  if (status === 200 && answer !== undefined) return { kind: 'value', value: answer };
  const shown = tidied(body.slice(0, SHOWN_LENGTH_MAX));
  return { kind: 'invalid', fault: `invalid answer: status ${status}, ${shown}` };
}

function parseAnswer(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch {
    // For an unsupported method the JSON has a raw newline in a string; then the text itself is reported.
    return undefined;
  }
}

function faultOf(answer: unknown, body: string): string {
  const fields = typeof answer === 'object' && answer !== null ? answer : {};
  const named = 'fault_message' in fields ? fields.fault_message : 'error' in fields ? fields.error : body;
  return tidied(typeof named === 'string' ? named : body);
}

function tidied(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the pattern removes them
  return text.slice(0, FAULT_LENGTH_MAX).replaceAll(/[\u0000-\u001f\u007f-\u009f]+/g, ' ');
}
