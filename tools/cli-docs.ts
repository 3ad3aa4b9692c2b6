/** Writes docs/cli.md from the definitions of the command line: `node tools/cli-docs.ts`. A test compares them. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command, type Option } from 'commander';
import { addCommands, DEFINITIONS } from '../src/cli/definitions/all.ts';

export const PAGE = join(import.meta.dirname, '../docs/cli.md');

const HEAD = `# Command line

Every command and option. \`neurovisor COMMAND --help\` shows the usual options with examples, \`--help all\` every option with
all explanations. This page is made from the definitions: \`node tools/cli-docs.ts\`.
`;

/** The page as it should be. */
export async function cliPage(): Promise<string> {
  const program = new Command('neurovisor');
  await addCommands(program, []);
  const headingOf = new Map(DEFINITIONS.flatMap(({ heading, names }) => names.map((name) => [name, heading])));
  let heading = '';
  const parts = [HEAD];
  for (const command of program.commands) {
    const its = headingOf.get(command.name()) ?? '';
    if (its !== heading) parts.push(`## ${its.replace(/:$/, '')}\n`);
    heading = its;
    parts.push(...sections(command, 'neurovisor'));
  }
  return `${parts.join('\n').trimEnd()}\n`;
}

function sections(command: Command, parent: string): string[] {
  const name = `${parent} ${command.name()}`;
  const subcommands = command.commands.flatMap((one) => sections(one, name));
  const usage = command.usage();
  const text = [`### ${name}\n`, `${sentence(command.summary())}\n`, `    ${name} ${usage}\n`];
  const rows = command.options.filter(({ hidden }) => !hidden).map(row);
  if (rows.length > 0) text.push(['| option | meaning |', '|---|---|', ...rows].join('\n'), '');
  return [...text, ...subcommands];
}

const sentence = (summary: string): string => `${summary.charAt(0).toUpperCase()}${summary.slice(1)}.`;

function row({ flags, description, defaultValue }: Option): string {
  const isShown = typeof defaultValue === 'string' && defaultValue !== '';
  const text = isShown ? `${description} (default: ${defaultValue})` : description;
  const cell = (words: string): string => words.replaceAll('|', '\\|').replaceAll('*', '\\*').replaceAll('<', '&lt;');
  return `| \`${flags.replaceAll('|', '\\|')}\` | ${cell(text)} |`;
}

if (process.argv[1] === import.meta.filename) writeFileSync(PAGE, await cliPage());
