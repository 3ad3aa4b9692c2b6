/**
 * Whether a text has at most `max` characters; one beyond the basic plane counts once, though it is two UTF-16 units.
 */
export function isAtMost(text: string, max: number): boolean {
  // Decides most texts without looking at each character.
  if (text.length <= max) return true;
  return text.length <= 2 * max && [...text].length <= max;
}
