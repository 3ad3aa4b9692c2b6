/** `neurovisor config`: the settings of the daemon. */
import type { Command } from 'commander';
import { plain } from '../../base/text/plain.ts';
import type { Cli } from '../cli.ts';
import { readCertificate } from '../daemon/certificate.ts';
import { type ListenFlags, listenChoice } from '../flags/listen-flags.ts';
import { modelChoice } from '../flags/model-choice.ts';
import { checkTogether, type Settings, withPlace } from '../flags/settings.ts';
import { table } from '../output/table.ts';

/** @throws UsageError, ConfigError: what would keep the daemon from starting */
export async function configCheck(cli: Cli, settings: Settings, serve: Command): Promise<number> {
  const { path, all } = settings;
  try {
    checkTogether(serve, cli.env);
    const flags = serve.opts<ListenFlags & { readonly model?: string }>();
    const tls = listenChoice(flags)?.tls ?? null;
    if (tls !== null) await readCertificate(tls);
    modelChoice(flags.model, cli.config);
  } catch (error) {
    throw withPlace(error, settings);
  }
  const keys = all.flatMap(({ name, given }) => (given === undefined ? [] : [name]));
  if (cli.json) cli.printJson({ path, keys });
  else if (path === null) cli.stdout.write('there is no file; the options and the environment are valid\n');
  else cli.stdout.write(`${plain(`${path} is valid (keys: ${keys.length})`)}\n`);
  return 0;
}

export function configShow(cli: Cli, { path, all }: Settings): number {
  const settings = all.map(({ name, shown, origin, given }) => ({
    name,
    value: shown,
    origin,
    line: origin === 'file' ? (given?.line ?? null) : null,
  }));
  if (cli.json) cli.printJson({ path, settings });
  else {
    const rows = settings.map(({ name, value, origin, line }) => [
      name,
      value ?? '-',
      line === null ? origin : `${path}:${line}`,
    ]);
    cli.stdout.write(`${table(['key', 'value', 'from'], rows)}\n`);
  }
  return 0;
}
