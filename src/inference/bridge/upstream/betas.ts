/** Betas of Anthropic's API, which a request enables by a header. Pure. */

export const BETA = /^[a-z0-9][\w.-]{0,63}$/i;

/**
 * Betas that change the form of requests and answers, but not what the host pays for a token, nor where or for how long
 * anything is kept. Programs enable them automatically and send fields that the API refuses without them.
 */
const ALWAYS: readonly string[] = [
  'context-management-2025-06-27',
  'effort-2025-11-24',
  'fine-grained-tool-streaming-2025-05-14',
  'interleaved-thinking-2025-05-14',
  'structured-outputs-2025-11-13',
];

/**
 * Filters a guest's list of betas for an upstream.
 * @param more those that the host allows for this upstream
 * @returns undefined if none is left
 */
export function passedBetas(header: string, more: readonly string[] = []): string | undefined {
  const names = new Set(header.split(',').map((name) => name.trim()));
  const passed = [...names].filter((name) => ALWAYS.includes(name) || more.includes(name));
  return passed.length === 0 ? undefined : passed.join(',');
}
