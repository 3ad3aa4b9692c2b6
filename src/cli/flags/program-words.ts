/**
 * Where the options of a command end and the command line of its program begins, as in `docker run` and `python3`: after
 * the script or the program. Commander would read every option up to `--`.
 */
import type { Command } from 'commander';

/** Command → operands before its program. */
const OPERANDS: Readonly<Record<string, number>> = { run: 0, exec: 1 };

/**
 * Puts `--` in front of the words that belong to the program, unless the command line has one.
 *
 *     run --memory 1G main.py --verbose   →  run --memory 1G main.py -- --verbose
 *     run -m app.report --year 2026       →  run -m app.report -- --year 2026
 *     exec 7ds14n1k -e A=1 ls -l          →  exec 7ds14n1k -e A=1 -- ls -l
 *
 * @param words the command line, from the name of the command on
 * @param command its definition, whose options say which words are values
 */
export function withProgramWords(words: readonly string[], command: Command): readonly string[] {
  const [name = '', ...rest] = words;
  const operands = Object.hasOwn(OPERANDS, name) ? OPERANDS[name] : undefined;
  if (operands === undefined || rest.includes('--')) return words;
  const at = programAt(rest, command, { isScript: name === 'run', operands });
  return at === null ? words : [name, ...rest.slice(0, at), '--', ...rest.slice(at)];
}

interface Kind {
  /** The first word of the program is an operand of the command: the script. */
  readonly isScript: boolean;
  readonly operands: number;
}

/** @returns index of the first word after which no option of the command follows; null: none */
function programAt(words: readonly string[], command: Command, { isScript, operands }: Kind): number | null {
  let before = operands;
  for (let index = 0; index < words.length; index += 1) {
    const word = words[index] ?? '';
    if (!word.startsWith('-') || word === '-') {
      if (before === 0) return isScript ? index + 1 : index;
      before -= 1;
      continue;
    }
    const used = optionWords(word, command);
    // Commander names the unknown option.
    if (used === null) return null;
    index += used.values;
    if (used.isModule) return index + 1;
  }
  return null;
}

interface Used {
  /** Words after this one that are its value. */
  readonly values: 0 | 1;
  /** `-m NAME`: as for python3, the program's words follow. */
  readonly isModule: boolean;
}

/** `--long`, `--long=value`, `-x`, `-xvalue`, `-abc`. @returns null: unknown */
function optionWords(word: string, command: Command): Used | null {
  if (word.startsWith('--')) {
    const [long = ''] = word.split('=', 1);
    const option = command.options.find((one) => one.long === long);
    if (option === undefined) return null;
    const values = option.required && !word.includes('=') ? 1 : 0;
    return { values, isModule: long === '--module' };
  }
  for (const [index, letter] of [...word.slice(1)].entries()) {
    const option = command.options.find((one) => one.short === `-${letter}`);
    if (option === undefined) return null;
    if (!option.required) continue;
    const isLast = index === word.length - 2;
    return { values: isLast ? 1 : 0, isModule: letter === 'm' };
  }
  return { values: 0, isModule: false };
}
