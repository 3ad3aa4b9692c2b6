/** `neurovisor setup`: prepares this machine, and lists the results. */
import { describeError } from '../../base/errors.ts';
import { type Runtime, templateSpec } from '../../runtime/runtime.ts';
import type { Cli } from '../cli.ts';
import { table } from '../output/table.ts';
import { openRuntime } from './open-runtime.ts';

export async function setup(cli: Cli): Promise<number> {
  await using runtime = await openRuntime(cli, { keepsProgress: true });
  const template = await defaultTemplate(runtime, cli);
  cli.progress.close();
  const { artifacts, driver, upstream, home } = runtime;
  const made = {
    home: home.dir,
    vmm: driver.description,
    chosen: runtime.vmmReason,
    accelerator: driver.accelerator,
    kernel: artifacts.kernelPath,
    image: artifacts.rootImagePath,
    packages: artifacts.guestPackages.description,
    template,
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

/** A missing template is not an error: sandboxes boot instead. */
async function defaultTemplate(runtime: Runtime, cli: Cli): Promise<string | null> {
  if (!runtime.templates.supported) return null;
  try {
    return (await runtime.templates.prepare(templateSpec({}))).key;
  } catch (error) {
    if (cli.cancelled.aborted) throw error;
    cli.log.warn('no template: sandboxes will boot', { reason: describeError(error) });
    return null;
  }
}
