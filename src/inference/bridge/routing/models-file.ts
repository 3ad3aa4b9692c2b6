/**
 * `models.toml`: the model servers of a host and the routes to them, as their owner writes them. Pure; keys are only
 * named here. docs/reference/routing.md has an example.
 */

import { parse, TomlError } from 'smol-toml';
import { EVERY_HOSTED } from '../../../base/request/model-limits.ts';
import { PRICE_DOLLARS_MAX, type Price, parsePrice } from '../budget/price.ts';
import { BridgeError } from '../errors.ts';
import { isLocal, parseTarget, UPSTREAM_APIS, type UpstreamApi, type UpstreamTarget } from '../upstream/address.ts';
import { BETA } from '../upstream/betas.ts';
import {
  FALLBACK_CAUSES,
  type FallbackCause,
  type Route,
  type RoutedModel,
  type RoutedUpstream,
} from './route-table.ts';

export type KeySource =
  | { readonly env: string }
  /** Relative to the file's folder. */
  | { readonly file: string }
  /** A program with its arguments, which prints the key. */
  | { readonly command: readonly string[] };

export type EngineSource =
  /** The model that set-up fetches. */
  | { readonly kind: 'usual' }
  /** A model that `neurovisor models pull` has fetched. */
  | { readonly kind: 'pulled'; readonly model: string }
  /** A GGUF file, relative to the file's folder. */
  | { readonly kind: 'file'; readonly path: string };

export interface FileUpstream extends Pick<RoutedUpstream, 'name' | 'isHosted' | 'answerWithinMs' | 'discover'> {
  /** As written; for an engine, only for display. */
  readonly url: string;
  /** Non-null for an engine of this host: then `target` has no address, and the model has the upstream's name. */
  readonly engine: EngineSource | null;
  readonly api: UpstreamApi;
  /** Without the key. */
  readonly target: UpstreamTarget;
  readonly key: KeySource | null;
  /** PEM file of the only CA for its certificate; `null` for those that the host trusts. */
  readonly caFile: string | null;
}

export interface ModelsFile {
  readonly upstreams: readonly FileUpstream[];
  readonly models: ReadonlyMap<string, RoutedModel>;
  /** For programs that name no model. */
  readonly defaultModel: string | null;
}

const CHARACTERS_MAX = 1_000_000;
const UPSTREAMS_MAX = 64;
const MODELS_MAX = 1_000;
const ROUTES_MAX = 64;
const UPSTREAM_NAME = /^[a-z0-9][a-z0-9_-]{0,63}$/i;
const NAME_CHARACTERS_MAX = 256;
const BETAS_MAX = 32;
const CONCURRENCY_MAX = 10_000;
const WEIGHT_MAX = 1_000;
const ANSWER_WITHIN_S_MAX = 3_600;
const FALLBACK_BY_DEFAULT: readonly FallbackCause[] = ['connect', 'timeout', '429', '5xx'];

type Upstreams = ReadonlyMap<string, Pick<FileUpstream, 'isHosted' | 'engine'>>;

/** @throws BridgeError `models_file_invalid`; names the line of a TOML error, or else the faulty key */
export function parseModelsFile(text: string): ModelsFile {
  if (text.length > CHARACTERS_MAX) throw invalid('it', 'is too long');
  const root = new Table('', parseToml(text));
  const upstreams = root.named('upstreams', UPSTREAMS_MAX).map(([name, table]) => upstreamOf(name, table));
  const names = new Map(upstreams.map((upstream) => [upstream.name, upstream]));
  if (names.size === 0) throw invalid('upstreams', 'is missing: name a server by [upstreams.NAME]');
  const entries = root.named('models', MODELS_MAX);
  const known = new Set(entries.map(([name]) => name));
  const models = new Map(entries.map(([name, table]) => [name, modelOf(name, table, { upstreams: names, known })]));
  const defaultModel = root.text('default');
  root.end();
  return { upstreams, models, defaultModel };
}

function upstreamOf(name: string, table: Table): FileUpstream {
  if (!UPSTREAM_NAME.test(name)) {
    throw invalid(table.path, 'has a name with other characters than letters, digits, - and _');
  }
  const engine = table.trueOrText('engine');
  if (engine !== null) return engineOf(name, engine, table);
  const url = table.text('url');
  if (url === null) throw invalid(table.at('url'), 'is missing');
  const concurrency = table.whole('concurrency', CONCURRENCY_MAX);
  const slots = concurrency === null ? {} : { slots: concurrency };
  const api = apiOf(table);
  const spoken = api === 'openai' ? {} : { api, ...betasOf(table) };
  const target = { ...targetOf(url, table.at('url')), name, ...spoken, ...slots };
  const isLocalTarget = isLocal(target);
  const isHosted = table.boolean('hosted') ?? !isLocalTarget;
  const answerWithinS = table.whole('answer_within_s', ANSWER_WITHIN_S_MAX);
  const upstream = {
    name,
    url,
    engine: null,
    api,
    target,
    isHosted,
    key: keyOf(table),
    caFile: table.text('ca_file'),
    answerWithinMs: answerWithinS === null ? null : answerWithinS * 1000,
    // Hosted services list hundreds of models, so theirs are offered one by one.
    discover: table.boolean('discover') ?? !isHosted,
  };
  if (upstream.key !== null && !isLocalTarget && target.baseUrl?.startsWith('http:') === true) {
    throw invalid(table.at('url'), 'would send the key unencrypted: use https');
  }
  table.end();
  return upstream;
}

/** Anything but a path is the name of a pulled model. */
function engineSource(value: string | true): EngineSource {
  if (value === true) return { kind: 'usual' };
  const isPath = value.includes('/') || /\.gguf$/i.test(value);
  return isPath ? { kind: 'file', path: value } : { kind: 'pulled', model: value };
}

function engineOf(name: string, value: string | true, table: Table): FileUpstream {
  const answerWithinS = table.whole('answer_within_s', ANSWER_WITHIN_S_MAX);
  const upstream = {
    name,
    url: value === true ? 'built-in engine' : `built-in engine, ${value}`,
    engine: engineSource(value),
    api: 'openai' as const,
    target: { name },
    isHosted: false,
    key: null,
    caFile: null,
    answerWithinMs: answerWithinS === null ? null : answerWithinS * 1000,
    discover: table.boolean('discover') ?? true,
  };
  table.end();
  return upstream;
}

function targetOf(url: string, path: string): UpstreamTarget {
  try {
    return parseTarget(url);
  } catch (error) {
    throw invalid(path, 'is not http(s)://HOST[:PORT][/PREFIX] or unix:/PATH[:/PREFIX]', error);
  }
}

function apiOf(table: Table): UpstreamApi {
  const text = table.text('api') ?? 'openai';
  const api = UPSTREAM_APIS.find((one) => one === text);
  if (api !== undefined) return api;
  throw invalid(table.at('api'), `is "${shown(text)}", which is none of ${UPSTREAM_APIS.join(', ')}`);
}

/** Only for upstreams with Anthropic's API; for others the key is unknown. */
function betasOf(table: Table): Pick<UpstreamTarget, 'betas'> {
  const betas = table.texts('betas');
  if (betas === null) return {};
  if (betas.length > BETAS_MAX) throw invalid(table.at('betas'), `has more than ${BETAS_MAX} entries`);
  const wrong = betas.find((name) => !BETA.test(name));
  if (wrong === undefined) return { betas };
  throw invalid(table.at('betas'), `has "${shown(wrong)}", which is no name of a beta`);
}

const ENV_NAME = /^[A-Za-z_][A-Za-z0-9_]*$/;

function keyOf(table: Table): KeySource | null {
  const path = table.at('key');
  const key = table.table(
    'key',
    'a table: { env = "NAME" }, { file = "PATH" } or { command = ["PROGRAM", "ARGUMENT"] }, never the key itself',
  );
  if (key === null) return null;
  const env = key.text('env');
  const file = key.text('file');
  const command = key.texts('command');
  key.end();
  if ([env, file, command].filter((source) => source !== null).length !== 1) {
    throw invalid(path, 'names one of env, file and command');
  }
  if (env !== null) {
    if (!ENV_NAME.test(env)) throw invalid(`${path}.env`, 'is not the name of a variable');
    return { env };
  }
  if (file !== null) return { file };
  const argv = command ?? [];
  if (argv[0] === undefined || argv[0] === '' || argv.some((text) => text.includes('\0'))) {
    throw invalid(`${path}.command`, 'is a list of a program and its arguments');
  }
  return { command: argv };
}

function modelOf(
  name: string,
  table: Table,
  there: { readonly upstreams: Upstreams; readonly known: ReadonlySet<string> },
): RoutedModel {
  if (name === EVERY_HOSTED || name === '*' || name === 'default') {
    throw invalid(table.path, `has a name that means something else: ${name}`);
  }
  checkName(name, table.path);
  const price = priceOf(table);
  const short = table.text('upstream') === null ? null : routeOf(name, table, there.upstreams, price);
  const listed = table.tables('routes', ROUTES_MAX);
  if ((short === null) === (listed === null)) {
    throw invalid(table.path, 'needs either upstream or routes');
  }
  const routes =
    listed?.map((route) => {
      const made = routeOf(name, route, there.upstreams, priceOf(route) ?? price);
      route.end();
      return made;
    }) ?? (short === null ? [] : [short]);
  if (routes.length === 0) throw invalid(table.at('routes'), 'is empty');
  const fallback = table.texts('fallback') ?? [];
  for (const other of fallback) {
    if (other === name) throw invalid(table.at('fallback'), 'names the model itself');
    if (there.known.has(other)) continue;
    throw invalid(table.at('fallback'), `names "${shown(other)}", which is not in [models]`);
  }
  const on = table.texts('fallback_on') ?? FALLBACK_BY_DEFAULT;
  const fallbackOn = new Set(on.map((cause) => causeOf(cause, table.at('fallback_on'))));
  table.end();
  return { routes, fallback: [...new Set(fallback)], fallbackOn };
}

function routeOf(name: string, table: Table, upstreams: Upstreams, price: Price | null): Route {
  const upstream = table.text('upstream');
  if (upstream === null) throw invalid(table.at('upstream'), 'is missing');
  const named = upstreams.get(upstream);
  if (named === undefined) {
    const all = [...upstreams.keys()].join(', ');
    throw invalid(table.at('upstream'), `is "${shown(upstream)}", which is none of ${all}`);
  }
  const { isHosted, engine } = named;
  const model = table.text('model') ?? (engine === null ? name : upstream);
  checkName(model, table.at('model'));
  if (engine !== null && model !== upstream) {
    throw invalid(table.at('model'), `is not ${upstream}, the only name of an engine's model`);
  }
  const weight = table.whole('weight', WEIGHT_MAX) ?? 1;
  return { upstream, model, weight, ...(price === null && !isHosted ? {} : { price }) };
}

/** `null` if no price is given. */
function priceOf(table: Table): Price | null {
  const price = table.table('price', 'a table in dollars for a million tokens: { input = 0.25, output = 2 }');
  if (price === null) return null;
  const input = price.dollars('input');
  const output = price.dollars('output');
  const cached = price.dollars('cached_input');
  price.end();
  if (input === null) throw invalid(price.at('input'), 'is missing');
  if (output === null) throw invalid(price.at('output'), 'is missing; of embeddings it is 0');
  const cachedInput = cached ?? input;
  if (cachedInput > input) throw invalid(price.at('cached_input'), 'is above input');
  return { input, output, cachedInput };
}

function causeOf(text: string, path: string): FallbackCause {
  const cause = FALLBACK_CAUSES.find((one) => one === text);
  if (cause !== undefined) return cause;
  throw invalid(path, `has "${shown(text)}"; it may have ${FALLBACK_CAUSES.join(', ')}`);
}

function checkName(name: string, path: string): void {
  const ok = name.length > 0 && name.length <= NAME_CHARACTERS_MAX && !/\p{Cc}/u.test(name);
  if (!ok) throw invalid(path, `has no name of 1 to ${NAME_CHARACTERS_MAX} printable characters`);
}

/** A table whose keys are read one by one; `end` refuses those that remain, e.g. misspelled ones. */
class Table {
  readonly path: string;
  readonly #values: Map<string, unknown>;
  readonly #known = new Set<string>();

  constructor(path: string, value: object) {
    this.path = path;
    this.#values = new Map(Object.entries(value));
  }

  at(key: string): string {
    const quoted = /^[\w-]+$/.test(key) ? key : JSON.stringify(shown(key));
    return this.path === '' ? quoted : `${this.path}.${quoted}`;
  }

  text(key: string): string | null {
    const value = this.#take(key);
    if (value === undefined) return null;
    if (typeof value === 'string' && value !== '') return value;
    throw invalid(this.at(key), 'must be a string that is not empty');
  }

  texts(key: string): readonly string[] | null {
    const value = this.#take(key);
    if (value === undefined) return null;
    if (Array.isArray(value) && value.every((one) => typeof one === 'string')) return value;
    throw invalid(this.at(key), 'must be a list of strings');
  }

  boolean(key: string): boolean | null {
    const value = this.#take(key);
    if (value === undefined) return null;
    if (typeof value === 'boolean') return value;
    throw invalid(this.at(key), 'must be true or false');
  }

  whole(key: string, max: number): number | null {
    const value = this.#take(key);
    if (value === undefined) return null;
    if (Number.isInteger(value) && Number(value) >= 1 && Number(value) <= max) return Number(value);
    throw invalid(this.at(key), `must be a whole number from 1 to ${max}`);
  }

  /** Reads dollars per million tokens and returns trillionths of a dollar per token. */
  dollars(key: string): number | null {
    const value = this.#take(key);
    if (value === undefined) return null;
    const price = typeof value === 'number' ? parsePrice(value) : null;
    if (price !== null) return price;
    const range = `from 0 to ${PRICE_DOLLARS_MAX} with at most 6 decimals`;
    throw invalid(this.at(key), `must be a number of dollars for a million tokens, ${range}`);
  }

  trueOrText(key: string): true | string | null {
    const value = this.#take(key);
    if (value === undefined) return null;
    if (value === true || (typeof value === 'string' && value !== '')) return value;
    throw invalid(this.at(key), 'must be true or a path');
  }

  table(key: string, expected: string): Table | null {
    const value = this.#take(key);
    if (value === undefined) return null;
    if (isTable(value)) return new Table(this.at(key), value);
    throw invalid(this.at(key), `must be ${expected}`);
  }

  tables(key: string, max: number): readonly Table[] | null {
    const value = this.#take(key);
    if (value === undefined) return null;
    if (!Array.isArray(value) || !value.every(isTable)) {
      throw invalid(this.at(key), 'must be a list of tables');
    }
    if (value.length > max) throw invalid(this.at(key), `has more than ${max} entries`);
    return value.map((one, index) => new Table(`${this.at(key)}[${index}]`, one));
  }

  named(key: string, max: number): readonly (readonly [string, Table])[] {
    const group = this.table(key, `tables: [${key}.NAME]`);
    if (group === null) return [];
    const names = [...group.#values.keys()];
    if (names.length > max) throw invalid(group.path, `has more than ${max} entries`);
    return names.map((name) => {
      const table = group.table(name, 'a table');
      if (table === null) throw invalid(group.at(name), 'must be a table');
      return [name, table];
    });
  }

  /** @throws BridgeError for a key that was not read */
  end(): void {
    const unknown = [...this.#values.keys()].find((key) => !this.#known.has(key));
    if (unknown === undefined) return;
    throw invalid(this.at(unknown), `is unknown; known are ${[...this.#known].sort().join(', ')}`);
  }

  #take(key: string): unknown {
    this.#known.add(key);
    return this.#values.get(key);
  }
}

function parseToml(text: string): object {
  try {
    return parse(text);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    // The library's message shows the text of the line, which may hold a key.
    const why = error.message.split('\n')[0]?.replace(/^Invalid TOML document: /, '') ?? '';
    throw invalid(`line ${error.line}, column ${error.column}`, `is not TOML: ${why}`);
  }
}

function isTable(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Date);
}

const shown = (text: string): string => text.slice(0, 100);

function invalid(path: string, why: string, cause?: unknown): BridgeError {
  return new BridgeError('models_file_invalid', `models.toml: ${path} ${why}`, {
    ...(cause === undefined ? {} : { cause }),
    remedy: 'correct the file: docs/reference/routing.md#many-upstreams',
  });
}
