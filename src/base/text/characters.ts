/** Whether a text has at most `max` characters; one beyond the basic plane is one, though two units of a string. */
export function isAtMost(text: string, max: number): boolean {
  // Most texts are decided without a look at each character.
  if (text.length <= max) return true;
  return text.length <= 2 * max && [...text].length <= max;
}
