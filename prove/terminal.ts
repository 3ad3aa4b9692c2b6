/** Text that is hostile to terminals. Pure. */

export const MARK = 'owned';
/** Sets the title of a terminal. */
export const STEERING = `\x1b]0;${MARK}\x07`;

/** Whether the text has control characters other than tabs and ends of lines. */
export function steers(text: string): boolean {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: it looks for them
  return /[\x00-\x08\x0b-\x1f\x7f-\x9f]/.test(text);
}
