/** How the help of commands with many options shows them: in groups, and without `--help all` only the usual ones. */
import type { Command, Option } from 'commander';

/** Heading → long names of its options, in the order of the help. */
const GROUPS: Readonly<Record<string, readonly string[]>> = {
  'What to run:': [
    ...['--code', '--module', '--interactive', '--tty', '--entrypoint', '--env', '--user', '--workdir'],
    ...['--image', '--build', '--build-arg', '--target', '--template', '--boot', '--snapshot', '--label'],
    ...['--with', '--requirements', '--no-requirements', '--warm'],
  ],
  'Files:': ['--copy', '--out', '--project', '--sync', '--yes'],
  'What it may reach:': [
    ...['--net', '--allow-out', '--deny-out', '--net-limit', '--secret'],
    ...['--packages', '--packages-allow', '--packages-deny', '--packages-min-age', '--packages-lock'],
  ],
  'Models:': [
    ...['--model', '--model-budget', '--model-cache', '--model-cache-size', '--model-priority', '--alias'],
    ...['--allow-model', '--allow-hosted', '--allow-field', '--record', '--replay', '--audit-content'],
  ],
  'Size and time:': [
    ...['--cpus', '--memory', '--memory-max', '--disk', '--disk-limit', '--rate', '--timeout', '--on-timeout'],
    ...['--idle-timeout', '--on-memory-pressure', '--no-auto-resume', '--memory-sharing', '--memory-short', '--pool'],
  ],
  'Where it listens:': [
    ...['--port', '--host', '--tls-cert', '--tls-key', '--plain-http', '--domain', '--open-metrics'],
  ],
  'How it runs:': ['--daemon', '--no-daemon', '--jail', '--vmm', '--timings', '--output'],
};

const HEADING_OF = new Map(Object.entries(GROUPS).flatMap(([heading, names]) => names.map((name) => [name, heading])));

/** Command → the options that most people need. */
const usual = new WeakMap<Command, ReadonlySet<string>>();

/**
 * Groups the options of a command.
 * @param names the options that `--help` shows; `--help all` shows all
 */
export function groupOptions(command: Command, names: readonly string[]): void {
  for (const option of command.options) {
    const heading = HEADING_OF.get(option.long ?? '');
    if (heading !== undefined) option.helpGroup(heading);
  }
  // The help shows groups in the order of their first options.
  const order = [...HEADING_OF.keys()];
  const place = ({ long }: Option): number => order.indexOf(long ?? '');
  (command.options as Option[]).sort((a, b) => place(a) - place(b));
  usual.set(command, new Set(names));
}

let isAllAsked = false;

/** From now on, help shows every option. */
export function showAllOptions(): void {
  isAllAsked = true;
}

/** Text that only `--help all` shows. */
export const whenAll = (text: string): string => (isAllAsked ? text : '');

const WIDTH = 100;

/** Breaks the lines of paragraphs at spaces. */
export function wrapped(text: string): string {
  return text.replace(new RegExp(`(?![^\\n]{1,${WIDTH}}$)([^\\n]{1,${WIDTH}})\\s`, 'gm'), '$1\n');
}

/** The options that the help of a command shows. */
export function shownOptions(command: Command, visible: readonly Option[]): Option[] {
  const names = isAllAsked ? undefined : usual.get(command);
  return visible.filter(({ long }) => names === undefined || long === '--help' || names.has(long ?? ''));
}

/** Says how to see the rest; empty if nothing is left out. */
export function moreOptionsText(command: Command): string {
  const names = isAllAsked ? undefined : usual.get(command);
  if (names === undefined) return '';
  const left = command.options.length - names.size;
  return `\n${left} more options: neurovisor ${command.name()} --help all`;
}
