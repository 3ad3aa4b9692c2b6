/** Definitions of `neurovisor login`, `logout` and `context`. */
import type { Command } from 'commander';
import type { LoginFlags } from '../commands/context.ts';
import { type OutputFlags, performAlone } from './perform.ts';
import { listCommand, output } from './shared-options.ts';

const load = () => import('../commands/context.ts');

export function addContext(program: Command): void {
  program
    .command('login')
    .summary('use a daemon elsewhere')
    .description(
      'Ask for the API key (or read it from a pipe), check it at the daemon, and save both as a context, which all ' +
        'commands then use. NEUROVISOR_URL wins over it.',
    )
    .argument('<url>', 'https://HOST:PORT or http://HOST:PORT')
    .option('--name <name>', 'name of the context (default: HOST)')
    .option('--ca <file>', 'PEM file of the only certificate authorities accepted')
    .addOption(output())
    .addHelpText('after', '\nExample:\n  neurovisor login https://box.example.org:7070 < key\n')
    .action((url: string, flags: LoginFlags & OutputFlags) =>
      performAlone(flags, async (cli) => (await load()).login(cli, url, flags)),
    );
  program
    .command('logout')
    .summary('forget a daemon and its key')
    .description('Remove a context with its key.')
    .argument('[name]', 'context (default: the current one)')
    .addOption(output())
    .action((name: string | undefined, flags: OutputFlags) =>
      performAlone(flags, async (cli) => (await load()).contextRemove(cli, name)),
    );
  const context = program
    .command('context')
    .summary('choose the daemon that commands use')
    .description('Choose the daemon that commands use.');
  listCommand(context)
    .summary('list contexts')
    .description('List contexts, without their keys.')
    .addOption(output())
    .action((flags: OutputFlags) => performAlone(flags, async (cli) => (await load()).contextList(cli)));
  context
    .command('use')
    .summary('choose a context')
    .description('Choose a context.')
    .argument('<name>', 'context, or local: the daemon of this home')
    .addOption(output())
    .action((name: string, flags: OutputFlags) =>
      performAlone(flags, async (cli) => (await load()).contextUse(cli, name)),
    );
  context
    .command('rm')
    .summary('remove a context')
    .description('Remove a context with its key.')
    .argument('<name>', 'context')
    .addOption(output())
    .action((name: string, flags: OutputFlags) =>
      performAlone(flags, async (cli) => (await load()).contextRemove(cli, name)),
    );
}
