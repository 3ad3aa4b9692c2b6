/**
 * What `neurovisor help WORDS` and `neurovisor WORDS --help` show: options in groups, and without `--help all` only the
 * usual ones.
 */
import type { Command, Option } from 'commander';
import { GROUPS } from '../flags/field.ts';

/**
 * Commander's own `help X` skips the deferred descriptions, and both it and `X --help` print the general help
 * for an unknown X.
 * @returns the words for commander to parse instead
 */
export function helpWords(program: Command, line: readonly string[]): readonly string[] {
  const words = withoutAll(line);
  const [first, ...others] = words;
  const isHelpOf = first === 'help' && others.length > 0;
  const asked = isHelpOf ? others : words;
  if (!isHelpOf && !words.includes('--help') && !words.includes('-h')) return words;
  const path: string[] = [];
  let command = program;
  for (const word of asked) {
    if (command.commands.length === 0 || word.startsWith('-')) break;
    const next = command.commands.find((one) => one.name() === word);
    // Without --help, commander itself rejects an unknown command.
    if (next === undefined) return command === program ? [word] : [...path, 'help', word];
    path.push(word);
    command = next;
  }
  return isHelpOf ? [...path, '--help'] : words;
}

/** Takes `all` of `--help all` and `help COMMAND all` away, and has every option shown. */
function withoutAll(words: readonly string[]): readonly string[] {
  const end = words.indexOf('--');
  // Behind it are the words of a program.
  const own = end < 0 ? words : words.slice(0, end);
  const at = own.findIndex((word) => word === '--help' || word === '-h');
  const isAsked = at >= 0 ? own[at + 1] === 'all' : words[0] === 'help' && words.length > 2 && words.at(-1) === 'all';
  if (!isAsked) return words;
  isAllAsked = true;
  return at >= 0 ? words.toSpliced(at + 1, 1) : words.slice(0, -1);
}

const deferred = new WeakMap<Command, () => Promise<string>>();

/** Sets a description that is expensive to make: it is made only when this command is named. */
export function describeLater(command: Command, description: () => Promise<string>): void {
  deferred.set(command, description);
}

/** Makes the deferred description of a command, if it has one. */
export async function describe(command: Command): Promise<void> {
  const description = deferred.get(command);
  if (description !== undefined) command.description(await description());
}

/** Command → the options that most people need. */
const usual = new WeakMap<Command, ReadonlySet<string>>();

/**
 * Sorts the options of a command by their headings.
 * @param names the options that `--help` shows; `--help all` shows all
 */
export function sortOptions(command: Command, names: readonly string[]): void {
  // The help shows groups in the order of their first options.
  const order: readonly string[] = GROUPS;
  const place = ({ helpGroupHeading: heading = '' }: Option): number => order.indexOf(heading);
  (command.options as Option[]).sort((a, b) => place(a) - place(b));
  usual.set(command, new Set(names));
}

/** Set by `--help all`: help shows every option. */
let isAllAsked = false;

/** Text that only `--help all` shows. */
export const whenAll = (text: string): string => (isAllAsked ? text : '');

const WIDTH = 100;

/** Breaks the lines of paragraphs at spaces. */
export function wrapped(text: string): string {
  return text.replace(new RegExp(`(?![^\\n]{1,${WIDTH}}$)([^\\n]{1,${WIDTH}})\\s`, 'gm'), '$1\n');
}

/** The long names that the help of a command is limited to; undefined if it shows all. */
const limitedTo = (command: Command): ReadonlySet<string> | undefined => (isAllAsked ? undefined : usual.get(command));

/** The options that the help of a command shows. */
export function shownOptions(command: Command, visible: readonly Option[]): Option[] {
  const names = limitedTo(command);
  return visible.filter(({ long }) => names === undefined || long === '--help' || names.has(long ?? ''));
}

/** Says how to see the rest; empty if nothing is left out. */
export function moreOptionsText(command: Command): string {
  const names = limitedTo(command);
  if (names === undefined) return '';
  const left = command.options.length - names.size;
  return `\n${left} more options: neurovisor ${command.name()} --help all`;
}
