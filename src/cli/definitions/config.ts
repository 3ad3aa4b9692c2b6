/** Definitions of `neurovisor config`. */
import { type Command, Option } from 'commander';
import { type OutputFlags, performAlone } from './perform.ts';

/** @param serve has the options of both subcommands */
export function addConfig(program: Command, serve: Command): void {
  const config = program
    .command('config')
    .summary('check and show the settings of the daemon')
    .description(
      'Check and show the settings of the daemon: options of `serve`, which win over the environment, and both over the ' +
        'file. Each option is a key (audit_content for --audit-content), and each variable of the host (upstream for ' +
        'NEUROVISOR_UPSTREAM). Subcommands also take the options of `serve`.',
    )
    .addHelpText(
      'after',
      `
Example of a neurovisor.toml:
  port = 7070
  pool = "2:8"
  upstream = "http://127.0.0.1:11434"
  model_budget = ["output=10M", "per=1d"]

Examples:
  neurovisor config check
  neurovisor config check ./neurovisor.toml
  neurovisor config show --pool 4
`,
    );
  const check: Command = config
    .command('check')
    .summary('check a file with settings')
    .description('Check a file with settings, also against the options of `serve` that are given, and the environment.')
    .argument('[file]', 'the file (default: neurovisor.toml in the home, if there is one)')
    .action((file?: string) => {
      if (file !== undefined) check.setOptionValueWithSource('config', file, 'cli');
      return perform('check', check);
    });
  const show: Command = config
    .command('show')
    .summary('show all settings and where they come from')
    .description('Show all settings, and where each comes from: a flag, the environment, the file, or its default.')
    .action(() => perform('show', show));
  for (const one of [check, show]) {
    for (const option of serve.options) {
      const hidden = !['config', 'output'].includes(option.name());
      one.addOption(Object.assign(new Option(option.flags), option, { hidden, helpGroupHeading: undefined }));
    }
  }
}

async function perform(kind: 'check' | 'show', command: Command): Promise<void> {
  const { applySettings } = await import('../flags/settings.ts');
  const settings = await applySettings(command, process.env);
  await performAlone(command.opts<OutputFlags>(), async (cli) => {
    const { configCheck, configShow } = await import('../commands/config.ts');
    return kind === 'show' ? configShow(cli, settings) : await configCheck(cli, settings, command);
  });
}
