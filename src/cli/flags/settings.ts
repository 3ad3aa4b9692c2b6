/**
 * `neurovisor.toml`: a key for each option of `serve` and each variable of the host. Options win over the environment,
 * and both over the file.
 */
import { readFile, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import type { Command, Option } from 'commander';
import { parse, TomlError } from 'smol-toml';
import { readConfig, readVariable, VARIABLE_NAMES } from '../../base/config.ts';
import { describeError, errorCode, remedyOf } from '../../base/errors.ts';
import { resolveHome } from '../../base/home.ts';
import { nearNames } from '../../base/text/near-names.ts';
import { UsageError } from '../failure.ts';
import { type CassetteFlags, cassetteChoice } from './cassette-flags.ts';
import { type ListenFlags, listenChoice } from './listen-flags.ts';
import { parseSharedBudget } from './model-budget.ts';
import { checkedFields } from './model-fields.ts';

export interface Key {
  /** As in the file. */
  readonly name: string;
  readonly option: Option | null;
  /** Environment variable that wins over the file; null: none. */
  readonly variable: string | null;
}

/** A value in the file. */
interface Given {
  readonly line: number;
  /** As the option's flag or the variable would have it; a list only for repeatable options. */
  readonly text: string | readonly string[];
  /** The option's value. */
  readonly value: unknown;
}

export type Origin = 'flag' | 'environment' | 'file' | 'default';

export interface Setting extends Key {
  readonly origin: Origin;
  readonly given: Given | undefined;
  /** Without credentials in URLs; null: unset. */
  readonly shown: string | null;
}

export interface Settings {
  /** Absolute; null: there is no file. */
  readonly path: string | null;
  readonly all: readonly Setting[];
}

type Environment = Record<string, string | undefined>;

const FILE_NAME = 'neurovisor.toml';
const BYTES_MAX = 2 ** 20;
/** `key =`, `key.part`, `[key]`, quoted or not. */
const KEY_LINE = /^\s*(?:\[+\s*)?(?:"([^"]*)"|'([^']*)'|([\w-]+))\s*[\].=]/;
/** How `serve` is called, not what it does. */
const NO_KEYS: readonly string[] = ['config', 'output'];
/** Where the file is, what belongs to clients, and secrets. */
const NO_VARIABLES: readonly string[] = ['HOME', 'URL', 'API_KEY', 'CA', 'DAEMON_WAIT', 'UPSTREAM_KEY'].map(variableOf);
/** Variables whose names are not those of their options. */
const VARIABLES_OF: Readonly<Record<string, string>> = { allow_field: 'ALLOW_FIELDS', log_level: 'LOG' };
/** Variables with values that are separated by commas. */
const LISTS: readonly string[] = ['probes', 'webhook_hosts', 'package_hosts'];
/** One of two overrules the other, wherever it is set. */
const RIVALS: readonly (readonly [string, string])[] = [
  ['record', 'replay'],
  ['models', 'upstream'],
];
/** Names in PATH unless they have a slash. */
const PROGRAMS: readonly string[] = ['firecracker', 'jailer'];

function variableOf(name: string): string {
  return `NEUROVISOR_${name.toUpperCase()}`;
}

/** @param serve the command, or another with its options */
export function keysOf(serve: Command): readonly Key[] {
  const options = serve.options.filter((option) => !NO_KEYS.includes(option.name()));
  const ofOptions = options.map((option): Key => {
    const name = option.name().replaceAll('-', '_');
    const variable = variableOf(VARIABLES_OF[name] ?? name);
    return { name, option, variable: VARIABLE_NAMES.includes(variable) ? variable : null };
  });
  const known = [...NO_VARIABLES, ...ofOptions.map(({ variable }) => variable)];
  const others = VARIABLE_NAMES.filter((name) => name.startsWith('NEUROVISOR_') && !known.includes(name));
  return [
    ...ofOptions,
    ...others.map((variable) => ({
      name: variable.slice(variableOf('').length).toLowerCase(),
      option: null,
      variable,
    })),
  ];
}

/**
 * Reads the file, and sets in the command and the environment what neither of them sets.
 * @param serve the parsed command
 * @throws UsageError naming file and line
 */
export async function applySettings(serve: Command, env: Environment): Promise<Settings> {
  const { config: named } = serve.opts<{ config?: string }>();
  const path = resolve(named ?? join(resolveHome(env['NEUROVISOR_HOME'] ?? '').dir, FILE_NAME));
  const text = await textOf(path, named !== undefined);
  const keys = keysOf(serve);
  const given = text === null ? new Map<string, Given>() : parseSettings(text, path, keys);
  const all = settle(serve, env, keys, given);
  for (const { origin, given, option, variable } of all) {
    if (origin !== 'file' || given === undefined) continue;
    if (variable !== null) env[variable] = typeof given.text === 'string' ? given.text : given.text.join(',');
    else if (option !== null) serve.setOptionValueWithSource(option.attributeName(), given.value, 'config');
  }
  const { logLevel } = serve.opts<{ logLevel?: string }>();
  if (logLevel !== undefined) env['NEUROVISOR_LOG'] = logLevel;
  const settings = { path: text === null ? null : path, all };
  try {
    checkTogether(serve, env);
  } catch (error) {
    const placed = withPlace(error, settings);
    // Others have nothing to do with the file; whoever uses the settings meets them, too.
    if (placed !== error) throw placed;
  }
  return settings;
}

/** Checks what depends on several settings. @throws UsageError, ConfigError */
export function checkTogether(serve: Command, env: Environment): void {
  const flags = serve.opts<ListenFlags & CassetteFlags & { modelBudget?: string[]; allowField?: string[] }>();
  const config = readConfig(env);
  listenChoice(flags);
  cassetteChoice(flags, config);
  parseSharedBudget(flags.modelBudget ?? []);
  checkedFields(flags.allowField ?? []);
}

/** @param isNamed false: null if it does not exist */
async function textOf(path: string, isNamed: boolean): Promise<string | null> {
  try {
    const found = await stat(path);
    if (!found.isFile()) throw new UsageError(`${path}: not a file`);
    if (found.size > BYTES_MAX) throw new UsageError(`${path}: larger than 1 MiB`);
    return await readFile(path, 'utf8');
  } catch (error) {
    if (error instanceof UsageError) throw error;
    if (!isNamed && errorCode(error) === 'ENOENT') return null;
    throw new UsageError(`${path}: ${describeError(error)}`, 'check the path and its permissions');
  }
}

/** Pure. @throws UsageError naming file and line */
export function parseSettings(text: string, path: string, keys: readonly Key[]): Map<string, Given> {
  const names = new Map(keys.map((key) => [key.name, key]));
  const given = new Map<string, Given>();
  for (const [name, value] of Object.entries(parseToml(text, path))) {
    const line = lineOf(text, name);
    const fail = (why: string, remedy?: string): never => {
      throw new UsageError(`${path}:${line}: ${why}`, remedy);
    };
    const key = names.get(name);
    if (key === undefined) {
      const near = nearNames(name.replaceAll('-', '_'), [...names.keys()]);
      const remedy = near.length > 0 ? `did you mean ${near.join(' or ')}?` : 'neurovisor config show lists all keys';
      return fail(`unknown key "${name.slice(0, 80)}"`, remedy);
    }
    try {
      given.set(name, { line, ...readValue(key, value, dirname(path)) });
    } catch (error) {
      fail(errorText(error, name, value), remedyOf(error));
    }
  }
  return given;
}

function parseToml(text: string, path: string): object {
  try {
    return parse(text);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const why = error.message.split('\n')[0]?.replace(/^Invalid TOML document: /, '') ?? '';
    throw new UsageError(`${path}:${error.line}: not TOML: ${why}`);
  }
}

/** The first line that begins with the key: the parser does not tell. No setting is a text of several lines. */
function lineOf(text: string, name: string): number {
  const at = text.split('\n').findIndex((line) => {
    const [, double, single, bare] = KEY_LINE.exec(line) ?? [];
    return (double ?? single ?? bare) === name;
  });
  return at < 0 ? 1 : at + 1;
}

/** @throws Error about the value */
function readValue(key: Key, value: unknown, folder: string): Pick<Given, 'text' | 'value'> {
  const { name, option } = key;
  if (option?.isBoolean() === true) {
    if (typeof value !== 'boolean') throw new UsageError(`${name}: expected true or false`);
    return { text: String(value), value };
  }
  if (Array.isArray(option?.defaultValue) || LISTS.includes(name)) {
    const list: unknown = typeof value === 'string' ? [value] : value;
    const isList = Array.isArray(list) && list.every((one) => typeof one === 'string' && one !== '');
    if (!isList) throw new UsageError(`${name}: expected a list of texts`, `for example ${name} = ["…", "…"]`);
    if (option !== null) return { text: list, value: list };
    return { text: checked(key, list.join(',')), value: undefined };
  }
  if (name === 'encrypt' && typeof value === 'boolean') return { text: value ? '1' : '0', value: undefined };
  if (typeof value !== 'string' && typeof value !== 'number') {
    throw new UsageError(`${name}: expected a text or a number`, `for example ${name} = "…"`);
  }
  if (value === '') throw new UsageError(`${name}: the text is empty`, 'omit the key');
  const text = isPath(key, String(value)) ? resolve(folder, String(value)) : String(value);
  if (option?.parseArg === undefined) return { text: checked(key, text), value: text };
  return { text, value: option.parseArg(text, undefined) };
}

function checked({ option, variable }: Key, text: string): string {
  if (option === null && variable !== null) readVariable(variable, text);
  return text;
}

/** Paths begin at the folder of the file, as in `models.toml`. */
function isPath({ name, option }: Key, text: string): boolean {
  if (PROGRAMS.includes(name)) return text.includes('/');
  if (name === 'model') return /\.gguf$/i.test(text);
  return name === 'models' || option?.flags.includes('<file>') === true;
}

function errorText(error: unknown, name: string, value: unknown): string {
  const text = describeError(error);
  if (error instanceof UsageError) return text;
  // Of commander, about choices; of a variable.
  return `${name} = ${JSON.stringify(value)?.slice(0, 80)}: ${text}`;
}

function settle(
  serve: Command,
  env: Environment,
  keys: readonly Key[],
  given: ReadonlyMap<string, Given>,
): readonly Setting[] {
  const outer = ({ option, variable }: Key): Origin | null => {
    if (option !== null && serve.getOptionValueSource(option.attributeName()) === 'cli') return 'flag';
    return variable !== null && (env[variable] ?? '') !== '' ? 'environment' : null;
  };
  const overruled = RIVALS.flatMap(([one, other]) => [
    [one, other],
    [other, one],
  ]).flatMap(([name, rival]) => (keys.some((key) => key.name === rival && outer(key) !== null) ? [name] : []));
  return keys.map((key) => {
    const its = overruled.includes(key.name) ? undefined : given.get(key.name);
    const origin = outer(key) ?? (its === undefined ? 'default' : 'file');
    return { ...key, origin, given: its, shown: shownValue(serve, env, key, origin, its) };
  });
}

function shownValue(
  serve: Command,
  env: Environment,
  { option, variable }: Key,
  origin: Origin,
  given: Given | undefined,
): string | null {
  const found = {
    flag: () => option && serve.getOptionValue(option.attributeName()),
    environment: () => variable && env[variable],
    file: () => given?.text,
    default: () => defaultOf(option, variable),
  }[origin]();
  const text = Array.isArray(found) ? found.join(' ') : String(found ?? '');
  return text === '' ? null : text.replace(/\/\/[^/@\s]*@/g, '//***@');
}

function defaultOf(option: Option | null, variable: string | null): unknown {
  if (typeof option?.defaultValue === 'string') return option.defaultValue;
  if (variable !== null) return readVariable(variable);
  return option?.isBoolean() === true ? false : /\(default: ([^()\s]*)\)$/.exec(option?.description ?? '')?.[1];
}

/** The error, with `file:line` of the first setting of the file that it names; as it is if it names none. */
export function withPlace(error: unknown, { path, all }: Settings): unknown {
  const message = describeError(error);
  for (const [word] of message.matchAll(/--[a-z][a-z-]*|NEUROVISOR_[A-Z_]+/g)) {
    const its = all.find(({ option, variable }) => word === variable || word === option?.long);
    if (its?.origin === 'file') return new UsageError(`${path}:${its.given?.line}: ${message}`, remedyOf(error));
  }
  return error;
}
