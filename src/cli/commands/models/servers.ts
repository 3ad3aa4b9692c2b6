/** `neurovisor models ls` and `test`: the model servers of this host, their models, and a test of them. */
import {
  type ModelOverview,
  type ModelsOverview,
  overviewOf,
  type RouteOverview,
  type RouteTest,
  type ServerOverview,
  testModels,
} from '../../../host/runtime/model-servers/overview.ts';
import type { Cli } from '../../cli.ts';
import { duration, table } from '../../output/table.ts';
import { openContents } from '../contents.ts';
import { pulledText } from './pulled.ts';

/** @returns 1 if a server does not answer */
export async function modelsList(cli: Cli): Promise<number> {
  await using contents = await openContents(cli);
  const pulled = await contents.models.list();
  // The model servers of another machine are its own.
  if (cli.config.daemonUrl !== null) {
    if (cli.json) cli.printJson({ pulled });
    else cli.stdout.write(pulledText(pulled));
    return 0;
  }
  const found = await overviewOf(optionsOf(cli));
  if (cli.json) cli.printJson({ ...found, pulled });
  else cli.stdout.write([overviewText(found), pulledText(pulled)].filter(Boolean).join('\n'));
  return found.servers.every(({ error }) => error === null) ? 0 : 1;
}

/** @returns 1 if a route does not answer, or there is none */
export async function modelsTest(cli: Cli, names: readonly string[]): Promise<number> {
  const tests = await testModels(optionsOf(cli), names, ({ model, upstream }) =>
    cli.log.info('tested', { model, upstream }),
  );
  if (cli.json) cli.printJson(tests);
  else cli.stdout.write(tests.length === 0 ? NONE : `${testTable(tests)}\n`);
  return tests.length > 0 && tests.every(({ error }) => error === null) ? 0 : 1;
}

const NONE = 'No model server is configured or answers; sandboxes use the built-in engine.\n';

const optionsOf = ({ config, env, cancelled }: Cli) => ({ config, env, signal: cancelled });

/** Names shown of a server's list. */
const MODELS_SHOWN_MAX = 5;

function overviewText({ path, defaultModel, servers, models }: ModelsOverview): string {
  if (servers.length === 0) return NONE;
  const head = path === null ? '' : `${path}\n\n`;
  const last = defaultModel === null ? '' : `\nDefault model: ${defaultModel}\n`;
  const routes = path === null ? '' : `\n${modelTable(models)}\n`;
  return `${head}${serverTable(servers)}\n${routes}${last}`;
}

function serverTable(servers: readonly ServerOverview[]): string {
  const rows = servers.map(({ name, kind, api, url, concurrency, key, models, tookMs, error }) => [
    name,
    kind,
    api,
    url,
    concurrency === null ? '-' : `${concurrency}`,
    key ?? '-',
    error ?? (tookMs === null ? 'starts with the first request' : `answers in ${duration(tookMs)}`),
    models === null ? '-' : shortened(models),
  ]);
  return table(['upstream', 'kind', 'API', 'address', 'slots', 'key', 'health', 'lists'], rows);
}

function shortened(names: readonly string[]): string {
  const more = names.length - MODELS_SHOWN_MAX;
  const some = names.slice(0, MODELS_SHOWN_MAX).join(', ');
  return more > 0 ? `${some} and ${more} more` : some || '-';
}

/** Of a million tokens of prompts and of answers. */
function priceText(price: RouteOverview['price']): string {
  if (price === undefined) return '';
  return price === null ? ' without price' : ` at $${price.input}/$${price.output} per million`;
}

function modelTable(models: readonly ModelOverview[]): string {
  const rows = models.map(({ name, routes, fallback }) => [
    name,
    routes
      .map(({ upstream, model, weight, price }) => {
        const other = model === name ? '' : `:${model}`;
        return `${upstream}${other}${weight === 1 ? '' : ` (${weight})`}${priceText(price)}`;
      })
      .join(', '),
    fallback.join(', ') || '-',
  ]);
  return table(['model', 'routes', 'fallback'], rows);
}

function testTable(tests: readonly RouteTest[]): string {
  const rows = tests.map(({ model, upstream, firstTokenMs, dialects, error }) => [
    model,
    upstream,
    firstTokenMs === null ? '-' : duration(firstTokenMs),
    dialects.join(', ') || '-',
    error ?? 'ok',
  ]);
  return table(['model', 'upstream', 'first token', 'dialects', 'result'], rows);
}
