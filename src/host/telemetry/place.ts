/** The place in our code that a stack names. Pure. */

/** Frames that are read of a stack. */
const FRAMES_MAX = 64;
const PLACE_CHARACTERS_MAX = 200;
const MODULES = '/node_modules/';

/**
 * @param stack a stack of V8, innermost frame first
 * @param root the package's directory, with a slash at its end
 * @returns function and position of the innermost frame of our own code, else of the innermost one that has a name;
 *   paths below `root`; `null` if the stack names no code
 */
export function placeOf(stack: string, root: string): string | null {
  const frames = stack
    .split('\n', FRAMES_MAX)
    .filter((line) => /^ {4}at .*:\d+:\d+\)?$/.test(line) && !line.includes('<anonymous>:'))
    .map((line) => line.slice('    at '.length).replace('file://', ''));
  const own = frames.find((frame) => frame.includes(root) && !frame.includes(MODULES));
  const frame = own ?? frames[0];
  if (frame === undefined) return null;
  return frame
    .replace(root, '')
    .replace(/\/\S*(?=\/node_modules\/)/, '')
    .slice(0, PLACE_CHARACTERS_MAX);
}
