/** Betas of Anthropic's API: parts of it that a request turns on by a header. Pure. */

/** The form of a name. */
export const BETA = /^[a-z0-9][\w.-]{0,63}$/i;

/**
 * They change the form of requests and answers, but not what the host pays for a token, nor where or for how long
 * anything is kept. Programs set them by themselves, and send fields that the API refuses without them.
 */
const ALWAYS: readonly string[] = [
  'context-management-2025-06-27',
  'effort-2025-11-24',
  'fine-grained-tool-streaming-2025-05-14',
  'interleaved-thinking-2025-05-14',
  'structured-outputs-2025-11-13',
];

/**
 * What an upstream gets of a guest's list of betas.
 * @param more those that the host allows for this upstream
 * @returns undefined: none
 */
export function passedBetas(header: string, more: readonly string[] = []): string | undefined {
  const names = new Set(header.split(',').map((name) => name.trim()));
  const passed = [...names].filter((name) => ALWAYS.includes(name) || more.includes(name));
  return passed.length === 0 ? undefined : passed.join(',');
}
