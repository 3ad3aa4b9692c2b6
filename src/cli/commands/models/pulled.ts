/** `neurovisor models pull` and `rm`: models for the built-in engine. */
import { systemClock } from '../../../base/clock.ts';
import type { PulledModel } from '../../../sandbox/contract/schema/contents.ts';
import type { Cli } from '../../cli.ts';
import { wholeSource } from '../../library/contents.ts';
import { bytes, coarse, table } from '../../output/table.ts';
import { openContents } from '../contents.ts';

export interface PullFlags {
  readonly name?: string;
  readonly file?: string;
}

/** @param text a path, or a reference to a registry */
export async function modelsPull(cli: Cli, text: string, flags: PullFlags): Promise<number> {
  await using contents = await openContents(cli);
  const { name, file } = flags;
  const { model, wasThere } = await contents.models.pull(wholeSource(text), { name, file }, contents.work);
  cli.progress.close();
  if (cli.json) {
    cli.printJson({ ...model, wasThere });
    return 0;
  }
  const facts = [
    bytes(model.bytes),
    ...(model.quantization === null ? [] : [model.quantization]),
    `${countText(model.parameters)} parameters`,
    ...(model.hasChatTemplate ? [] : ['without a chat template']),
  ];
  cli.stdout.write(
    `${model.name}: ${facts.join(', ')}${wasThere ? ', is here already' : ''}\n` +
      `Use it: neurovisor run --model ${model.name} agent.py\n`,
  );
  return 0;
}

export async function modelsRemove(cli: Cli, names: readonly string[]): Promise<number> {
  await using contents = await openContents(cli);
  const freed = await contents.models.remove(names);
  cli.progress.close();
  if (cli.json) cli.printJson({ models: names, bytes: freed });
  else cli.stdout.write(`${names.join('\n')}\nfreed ${bytes(freed)}\n`);
  return 0;
}

/** @returns '' without any */
export function pulledText(models: readonly PulledModel[]): string {
  const [first] = models;
  if (first === undefined) return '';
  const rows = models.map((one) => [
    one.name,
    bytes(one.bytes),
    one.quantization ?? '-',
    countText(one.parameters),
    one.contextTokens === null ? '-' : `${one.contextTokens}`,
    `${coarse(systemClock.wall() - one.pulledAtMs)} ago`,
    one.source,
  ]);
  const heads = ['model', 'size', 'quantization', 'parameters', 'context', 'pulled', 'from'];
  return `${table(heads, rows)}\n\nUse one: neurovisor run --model ${first.name} agent.py\n`;
}

/** `135M`, `7.2B`. */
function countText(count: number): string {
  if (count >= 1e9) return `${(count / 1e9).toFixed(1)}B`;
  return count >= 1e6 ? `${Math.round(count / 1e6)}M` : `${count}`;
}
