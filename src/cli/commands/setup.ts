/** `neurovisor setup`: makes this machine ready, and says what it made. */
import type { Cli } from '../cli.ts';
import { openRuntime } from '../open.ts';
import { table } from '../table.ts';

export async function setup(cli: Cli): Promise<number> {
  await using runtime = await openRuntime(cli);
  const { artifacts, driver, upstream, home } = runtime;
  const made = {
    home: home.dir,
    vmm: driver.description,
    accelerator: driver.accelerator,
    kernel: artifacts.kernelPath,
    image: artifacts.rootImagePath,
    models: upstream.description,
    model: artifacts.model?.path ?? null,
  };
  if (cli.json) {
    cli.printJson(made);
    return 0;
  }
  const rows = Object.entries(made).map(([name, value]) => [name, value ?? '-']);
  cli.stdout.write(`${table(['part', 'value'], rows)}\n\nready: neurovisor run FILE\n`);
  return 0;
}
