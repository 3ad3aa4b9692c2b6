/** Writes docs/cli.md from the definitions of the command line: `node tools/cli-docs.ts`. A test compares them. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command, type Option } from 'commander';
import { addCommands, DEFINITIONS } from '../src/cli/definitions/all.ts';

export const PAGE = join(import.meta.dirname, '../docs/cli.md');

const head = (withoutOutput: readonly string[]): string => `# Command line

Every command and option. \`neurovisor COMMAND --help\` shows the usual options with examples, \`--help all\` every option with
all explanations. This page is made from the definitions: \`node tools/cli-docs.ts\`.

Each command takes \`${OUTPUT} <format>\`, text or json (default: text), except ${withoutOutput.map((name) => `\`${name}\``).join(', ')}.
`;

/** Said once, in the head. */
const OUTPUT = '-o, --output';
const isOutput = ({ flags }: Option): boolean => flags.startsWith(OUTPUT);

/** The page as it should be. */
export async function cliPage(): Promise<string> {
  const program = new Command('neurovisor');
  await addCommands(program, []);
  const headingOf = new Map(DEFINITIONS.flatMap(({ heading, names }) => names.map((name) => [name, heading])));
  let heading = '';
  const shown = new Map<string, string>();
  const parts = [head(program.commands.flatMap(withoutOutput))];
  for (const command of program.commands) {
    const its = headingOf.get(command.name()) ?? '';
    if (its !== heading) parts.push(`## ${its.replace(/:$/, '')}\n`);
    heading = its;
    parts.push(...sections(command, 'neurovisor', shown));
  }
  return `${parts.join('\n').trimEnd()}\n`;
}

/** `shown`: the rows of earlier sections, each with the name of its command, which later sections only link to. */
function sections(command: Command, parent: string, shown: Map<string, string>): string[] {
  const name = `${parent} ${command.name()}`;
  const text = [`### ${name}\n`, `${sentence(command.summary())}\n`];
  // Without arguments the heading says how to use the command.
  if (command.registeredArguments.length > 0) text.push(`    ${name} ${command.usage()}\n`);
  const options = command.options.filter((option) => !option.hidden && !isOutput(option));
  const known = Map.groupBy(options, (option) => shown.get(row(option)));
  const rows = (known.get(undefined) ?? []).map(row);
  for (const [first, same] of known) {
    if (first === undefined) continue;
    const flags = same.map((option) => `\`${option.long ?? option.flags}\``);
    rows.push(`- as in [${first}](#${first.replaceAll(' ', '-')}): ${flags.join(', ')}`);
  }
  for (const option of options) if (!shown.has(row(option))) shown.set(row(option), name);
  if (rows.length > 0) text.push(rows.join('\n'), '');
  return [...text, ...command.commands.flatMap((one) => sections(one, name, shown))];
}

/** Names of the command, or of its subcommands, that have no such option. */
function withoutOutput(command: Command): string[] {
  if (command.commands.length > 0) {
    return command.commands.flatMap(withoutOutput).map((name) => `${command.name()} ${name}`);
  }
  return command.options.some(isOutput) ? [] : [command.name()];
}

const sentence = (summary: string): string => `${summary.charAt(0).toUpperCase()}${summary.slice(1)}.`;

function row({ flags, description, defaultValue }: Option): string {
  const isShown = typeof defaultValue === 'string' && defaultValue !== '';
  const text = isShown ? `${description} (default: ${defaultValue})` : description;
  return `- \`${flags}\`: ${text.replaceAll('*', '\\*').replaceAll('<', '&lt;')}`;
}

if (process.argv[1] === import.meta.filename) writeFileSync(PAGE, await cliPage());
