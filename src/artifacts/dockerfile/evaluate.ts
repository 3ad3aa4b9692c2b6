/**
 * Evaluates a stage once its base is known: the steps that change files, and the resulting configuration. Pure.
 *
 *     instructions + base's configuration + build arguments ──► steps, configuration, warnings
 */
import type { Healthcheck, ImageConfig } from '../oci/documents.ts';
import { invalid, shown, unsupported } from './errors.ts';
import { DOCKERFILE_LIMITS } from './limits.ts';
import { type RunMount, readMount } from './mounts.ts';
import type { Instruction } from './parse.ts';
import { readArgument, type Source, type Stage, type StageGraph, sourceOfFrom, type Variables } from './stages.ts';
import { expandText, expandWord, expandWords, jsonWords, type Scope, splitWords } from './words.ts';

interface StepBase {
  readonly line: number;
  /** As written, shortened. */
  readonly text: string;
}

export interface RunStep extends StepBase {
  readonly kind: 'run';
  readonly argv: readonly string[];
  /** A file with `#!` that runs instead of `argv`, if any. */
  readonly program: string | null;
  readonly env: Variables;
  readonly user: string;
  readonly workdir: string;
  readonly mounts: readonly RunMount[];
  /** False for `--network=none`. */
  readonly network: boolean;
}

export interface CopyStep extends StepBase {
  readonly kind: 'copy';
  /** `null` for the context. */
  readonly from: Source | null;
  /** Paths, which may have wildcards. */
  readonly sources: readonly string[];
  readonly inline: readonly { readonly name: string; readonly content: string }[];
  /** Absolute; ends with `/` if it must be a directory. */
  readonly target: string;
  /** `user[:group]`; `null` for root if the source is the context, else for the source's owner. */
  readonly owner: string | null;
  /** Permission bits; `null` for those of the source. */
  readonly mode: number | null;
  /** True for ADD, which extracts archives of the context. */
  readonly extracts: boolean;
  /** SHA-256 of the archive that has the sources. Default: the context. */
  readonly archive?: string;
}

export interface WorkdirStep extends StepBase {
  readonly kind: 'workdir';
  readonly path: string;
}

export type Step = RunStep | CopyStep | WorkdirStep;

export interface Evaluated {
  readonly steps: readonly Step[];
  readonly config: ImageConfig;
  readonly inherited: Inherited;
  readonly warnings: readonly string[];
}

/** State that a stage passes on to its continuation, beside files and configuration. */
export interface Inherited {
  readonly shell: readonly string[];
  readonly arguments: Variables;
}

/** Used for images, whose own shell is not read. */
export const NOTHING_INHERITED: Inherited = { shell: ['/bin/sh', '-c'], arguments: {} };

export const EMPTY_CONFIG: ImageConfig = {
  user: '',
  env: {},
  workdir: '/',
  entrypoint: [],
  cmd: [],
  exposedPorts: [],
  labels: {},
  healthcheck: null,
  stopSignal: null,
};

/** Docker's default for programs of an image that sets none. */
export const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export interface EvaluateOptions {
  readonly graph: StageGraph;
  readonly stage: Stage;
  readonly base: ImageConfig;
  readonly inherited: Inherited;
  readonly given: Variables;
  readonly platform: Variables;
}

/** @throws DockerfileError */
export function evaluateStage(options: EvaluateOptions): Evaluated {
  const state = new State(options);
  for (const instruction of options.stage.instructions) state.take(instruction);
  return state.result();
}

/** Accepted without an effect. */
const IGNORED: Readonly<Record<string, string>> = {
  VOLUME: 'VOLUME has no effect: a sandbox keeps all of its files on one disk',
  MAINTAINER: 'MAINTAINER has no effect: use LABEL',
};

class State {
  readonly #options: EvaluateOptions;
  readonly #steps: Step[] = [];
  readonly #warnings: string[] = [];
  #config: ImageConfig;
  #arguments: Variables;
  #shell: readonly string[];
  #hasCmd = false;

  constructor(options: EvaluateOptions) {
    this.#options = options;
    this.#config = options.base;
    this.#arguments = options.inherited.arguments;
    this.#shell = options.inherited.shell;
  }

  result(): Evaluated {
    const inherited = { shell: this.#shell, arguments: this.#arguments };
    return { steps: this.#steps, config: this.#config, inherited, warnings: this.#warnings };
  }

  take(instruction: Instruction): void {
    const { keyword, line, rest, heredocs } = instruction;
    const takers: Readonly<Record<string, (one: Instruction) => void>> = {
      RUN: (one) => this.#run(one),
      COPY: (one) => this.#copy(one),
      ADD: (one) => this.#copy(one),
      ENV: (one) => this.#env(one),
      ARG: (one) => this.#argument(one),
      LABEL: (one) => this.#label(one),
      WORKDIR: (one) => this.#workdir(one),
      USER: (one) => this.#user(one),
      CMD: (one) => this.#command(one),
      ENTRYPOINT: (one) => this.#entrypoint(one),
      EXPOSE: (one) => this.#expose(one),
      SHELL: (one) => this.#setShell(one),
      HEALTHCHECK: (one) => this.#healthcheck(one),
      STOPSIGNAL: (one) => this.#set({ stopSignal: expandWord(one.rest, this.#scope(one.line)) }),
    };
    const take = Object.hasOwn(takers, keyword) ? takers[keyword] : undefined;
    const ignored = Object.hasOwn(IGNORED, keyword) ? IGNORED[keyword] : undefined;
    if (ignored !== undefined) {
      this.#warnings.push(`line ${line}: ${ignored}`);
      return;
    }
    if (take === undefined) {
      if (keyword === 'ONBUILD') throw unsupported(line, 'ONBUILD', 'Write the instruction where it is needed.');
      throw invalid(line, `unknown instruction ${shown(keyword)}`);
    }
    if (rest === '' && heredocs.length === 0) throw invalid(line, `${keyword} has no argument`);
    if (instruction.flags.length > 0 && !WITH_FLAGS.has(keyword)) {
      throw invalid(line, `${keyword} has no flag --${shown(instruction.flags[0]?.name ?? '')}`);
    }
    take(instruction);
  }

  #set(change: Partial<ImageConfig>): void {
    this.#config = { ...this.#config, ...change };
  }

  #scope(line: number): Scope {
    const { escapeMark } = this.#options.graph;
    return { line, escapeMark, variables: { ...this.#arguments, ...this.#config.env } };
  }

  #run({ line, flags, rest, script, heredocs }: Instruction): void {
    const mounts: RunMount[] = [];
    let network = true;
    const scope = this.#scope(line);
    const { graph, stage } = this.#options;
    for (const { name, value } of flags) {
      if (name === 'mount') mounts.push(readMount(value, scope, graph.stages, stage.index));
      else if (name === 'network' && (value === 'none' || value === 'default')) network = value !== 'none';
      else if (name === 'network') throw unsupported(line, `--network=${shown(value)}`);
      else throw unsupported(line, `RUN --${shown(name)}`);
    }
    if (mounts.length > DOCKERFILE_LIMITS.partsMax) throw invalid(line, 'too many mounts');
    const [only] = heredocs;
    const isScript = only !== undefined && heredocs.length === 1 && /^<<\S+$/.test(rest);
    const text = isScript ? only.content : script;
    const isProgram = isScript && text.startsWith('#!');
    const argv = (heredocs.length === 0 ? jsonWords(rest) : null) ?? [...this.#shell, text];
    if (argv.length === 0) throw invalid(line, 'RUN has no command');
    const path = { PATH: DEFAULT_PATH };
    this.#steps.push({
      kind: 'run',
      line,
      text: `RUN ${shown(isScript ? text : rest)}`,
      argv: isProgram ? [] : argv,
      program: isProgram ? text : null,
      env: { ...path, ...this.#arguments, ...this.#config.env },
      user: this.#config.user,
      workdir: this.#config.workdir,
      mounts,
      network,
    });
  }

  #copy({ keyword, line, flags, rest, heredocs, archive }: Instruction): void {
    const scope = this.#scope(line);
    let from: Source | null = null;
    let owner: string | null = null;
    let mode: number | null = null;
    const { graph, stage } = this.#options;
    for (const { name, value } of flags) {
      const text = expandWord(value, scope);
      if (name === 'chown') owner = readOwner(text, line);
      else if (name === 'chmod') mode = readMode(text, line);
      else if (name === 'from' && keyword === 'COPY') {
        from = sourceOfFrom(text, graph.stages, stage.index, line);
      } else if (name !== 'link') throw unsupported(line, `${keyword} --${shown(name)}`);
    }
    const words = jsonWords(rest)?.map((word) => expandWord(word, scope)) ?? expandWords(rest, scope);
    const target = words.at(-1) ?? '';
    const named = words.slice(0, -1);
    const inline = heredocs.map(({ name, expands, content }) => ({
      name,
      content: expands ? expandText(content, scope) : content,
    }));
    const sources = named.filter((word) => !/^<</.test(word));
    if (sources.length + inline.length === 0 || target === '') {
      throw invalid(line, `${keyword} needs a source and a destination`);
    }
    const isRemote = (one: string): boolean => /^(https?|ftp|git|ssh):\/\/|^git@/.test(one);
    const remote = sources.find(isRemote);
    if (remote !== undefined) {
      const remedy = 'Fetch it in a RUN with --net or --allow-out, or put it into the context.';
      throw unsupported(line, `${keyword} of an address, ${shown(remote)}`, remedy);
    }
    const isMany = sources.length + inline.length > 1;
    if (isMany && !/(^|\/)\.?$/.test(target)) {
      throw invalid(line, 'the destination of several sources must end with /');
    }
    this.#steps.push({
      kind: 'copy',
      line,
      text: `${keyword} ${shown(rest)}`,
      from,
      sources,
      inline,
      target: withSlash(target, absolute(this.#config.workdir, target)),
      owner,
      mode,
      extracts: keyword === 'ADD',
      ...(archive === undefined ? {} : { archive }),
    });
  }

  #env({ line, rest }: Instruction): void {
    const env = { ...this.#config.env, ...this.#pairs(line, rest, 'ENV') };
    this.#set({ env: this.#bounded(env, line) });
  }

  #label({ line, rest }: Instruction): void {
    const labels = { ...this.#config.labels, ...this.#pairs(line, rest, 'LABEL') };
    this.#set({ labels: this.#bounded(labels, line) });
  }

  /** `A=1 B=2`, or the old form `A the rest`. */
  #pairs(line: number, rest: string, what: string): Variables {
    const scope = this.#scope(line);
    const words = splitWords(rest, scope.escapeMark);
    const [first = ''] = words;
    if (!first.includes('=')) {
      const value = rest.slice(first.length).trim();
      if (value === '') throw invalid(line, `${what} ${shown(first)} has no value`);
      return { [this.#name(first, scope, what)]: expandWord(value, scope) };
    }
    const pairs = words.map((word) => {
      const equals = word.indexOf('=');
      if (equals < 0) throw invalid(line, `"${shown(word)}" is not NAME=VALUE`);
      const name = this.#name(word.slice(0, equals), scope, what);
      return [name, expandWord(word.slice(equals + 1), scope)] as const;
    });
    return Object.fromEntries(pairs);
  }

  #name(text: string, scope: Scope, what: string): string {
    const name = expandWord(text, scope);
    const wrong = what === 'LABEL' ? /[=\n]/ : /[=\s]/;
    if (name !== '' && name !== '__proto__' && !wrong.test(name)) return name;
    throw invalid(scope.line, `"${shown(text)}" is not a name for ${what}`);
  }

  #bounded(names: Variables, line: number): Variables {
    const { namesMax, environmentCharactersMax } = DOCKERFILE_LIMITS;
    const all = Object.entries(names);
    const characters = all.reduce((sum, [name, value]) => sum + name.length + value.length, 0);
    if (all.length > namesMax || characters > environmentCharactersMax) {
      throw invalid(line, 'too many or too long variables or labels');
    }
    return names;
  }

  #argument({ line, rest }: Instruction): void {
    const { given, platform, graph } = this.#options;
    for (const word of splitWords(rest, graph.escapeMark)) {
      const { name, value } = readArgument(word, this.#scope(line));
      const from = [given, value === undefined ? graph.globals : {}, platform].find((one) => Object.hasOwn(one, name));
      const known = from === given || value === undefined ? from?.[name] : value;
      if (known !== undefined) {
        this.#arguments = this.#bounded({ ...this.#arguments, [name]: known }, line);
      }
    }
  }

  #workdir({ line, rest }: Instruction): void {
    const path = absolute(this.#config.workdir, expandWord(rest, this.#scope(line)));
    this.#set({ workdir: path });
    this.#steps.push({ kind: 'workdir', line, text: `WORKDIR ${shown(rest)}`, path });
  }

  #user({ line, rest }: Instruction): void {
    this.#set({ user: readOwner(expandWord(rest, this.#scope(line)), line) });
  }

  #command({ rest }: Instruction): void {
    this.#hasCmd = true;
    this.#set({ cmd: this.#words(rest) });
  }

  #entrypoint({ rest }: Instruction): void {
    const cmd = this.#hasCmd ? this.#config.cmd : [];
    this.#set({ entrypoint: this.#words(rest), cmd });
  }

  #words(rest: string): readonly string[] {
    return jsonWords(rest) ?? [...this.#shell, rest];
  }

  #expose({ line, rest }: Instruction): void {
    const ports = expandWords(rest, this.#scope(line)).map((word) => {
      const [, port = '', protocol = 'tcp'] = /^(\d{1,5}(?:-\d{1,5})?)(?:\/(tcp|udp|sctp))?$/i.exec(word) ?? [];
      if (port === '') throw invalid(line, `"${shown(word)}" is not a port`);
      return `${port}/${protocol.toLowerCase()}`;
    });
    this.#set({ exposedPorts: [...new Set([...this.#config.exposedPorts, ...ports])] });
  }

  #setShell({ line, rest }: Instruction): void {
    const words = jsonWords(rest);
    if (words === null || words.length === 0) throw invalid(line, 'SHELL needs a JSON list of words');
    this.#shell = words;
  }

  #healthcheck({ line, flags, rest }: Instruction): void {
    if (rest.toUpperCase() === 'NONE') {
      const none = { kind: 'none', command: [], intervalMs: null, timeoutMs: null, retries: null } as const;
      this.#set({ healthcheck: none });
      return;
    }
    const [, text = ''] = /^CMD\s+(.+)$/is.exec(rest) ?? [];
    if (text === '') throw invalid(line, 'HEALTHCHECK needs CMD or NONE');
    const words = jsonWords(text);
    let check: Healthcheck = {
      kind: words === null ? 'shell' : 'exec',
      command: words ?? [text],
      intervalMs: null,
      timeoutMs: null,
      retries: null,
    };
    for (const { name, value } of flags) {
      if (name === 'interval') check = { ...check, intervalMs: readDuration(value, line) };
      else if (name === 'timeout') check = { ...check, timeoutMs: readDuration(value, line) };
      else if (name === 'retries' && /^\d{1,4}$/.test(value)) check = { ...check, retries: Number(value) || null };
      else if (name === 'start-period' || name === 'start-interval') readDuration(value, line);
      else throw invalid(line, `HEALTHCHECK --${shown(name)}=${shown(value)}`);
    }
    this.#set({ healthcheck: check });
  }
}

const WITH_FLAGS: ReadonlySet<string> = new Set(['RUN', 'COPY', 'ADD', 'HEALTHCHECK']);

/** `user`, `uid` or `user:group`. */
function readOwner(text: string, line: number): string {
  if (/^[\w.$-]{1,64}(:[\w.$-]{1,64})?$/.test(text)) return text;
  throw invalid(line, `"${shown(text)}" is not a user`, 'Use USER, UID, USER:GROUP or UID:GID.');
}

function readMode(text: string, line: number): number {
  if (/^[0-7]{3,4}$/.test(text)) return Number.parseInt(text, 8);
  throw unsupported(line, `--chmod=${shown(text)}`, 'Use octal digits, for example --chmod=755.');
}

const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 };

/** In Go's form: `1m30s`. @returns milliseconds; `null` for 0, Docker's default */
function readDuration(text: string, line: number): number | null {
  const parts = [...text.matchAll(/(\d{1,6}(?:\.\d{1,3})?)(ms|s|m|h)/g)];
  const read = parts.map(([all]) => all).join('');
  if (text === '0') return null;
  if (read === '' || read !== text) throw invalid(line, `"${shown(text)}" is not a duration`, 'Use for example 30s.');
  const total = parts.reduce((sum, [, count, unit = '']) => sum + Number(count) * (UNITS[unit] ?? 0), 0);
  return Math.round(total) || null;
}

/** Resolves `.`, `..` and doubled slashes. */
export function absolute(workdir: string, path: string): string {
  const out: string[] = [];
  for (const part of (path.startsWith('/') ? path : `${workdir}/${path}`).split('/')) {
    if (part === '..') out.pop();
    else if (part !== '' && part !== '.') out.push(part);
  }
  return `/${out.join('/')}`;
}

const withSlash = (given: string, path: string): string =>
  /(^|\/)\.{0,2}$/.test(given) && path !== '/' ? `${path}/` : path;
