/**
 * The stages of a Dockerfile and their dependencies. Variables in FROM are replaced here, all others when the base of a
 * stage is known (`evaluate.ts`). Pure.
 */

import { READY_MADE } from '../ready-made.ts';
import type { Base } from './base.ts';
import { invalid, shown, unsupported } from './errors.ts';
import { DOCKERFILE_LIMITS } from './limits.ts';
import type { Instruction, ParsedDockerfile } from './parse.ts';
import { expandWord, expandWords, type Scope, splitWords } from './words.ts';

export type Source =
  | { readonly kind: 'stage'; readonly index: number }
  | { readonly kind: 'image'; readonly reference: string }
  /** The default environment, called `agent`. */
  | { readonly kind: 'agent' }
  /** One that NeuroVisor ships, such as `base`. */
  | { readonly kind: 'ready-made'; readonly name: string }
  | { readonly kind: 'scratch' }
  /** One that the caller of the build has found. */
  | { readonly kind: 'given'; readonly base: Base };

export interface Stage {
  readonly index: number;
  /** In lower case; `null` without `AS`. */
  readonly name: string | null;
  readonly line: number;
  readonly base: Source;
  /** Excludes FROM. */
  readonly instructions: readonly Instruction[];
}

export interface StageGraph {
  readonly escapeMark: string;
  /** ARGs before the first FROM, with their values. */
  readonly globals: Readonly<Record<string, string>>;
  readonly stages: readonly Stage[];
}

export type Variables = Readonly<Record<string, string>>;

/** Names that can't be stages or images. */
export const AGENT = 'agent';

/** @param architecture as in image manifests: `amd64` */
export function platformArguments(architecture: string): Variables {
  const platform = `linux/${architecture}`;
  return {
    TARGETPLATFORM: platform,
    TARGETOS: 'linux',
    TARGETARCH: architecture,
    TARGETVARIANT: '',
    BUILDPLATFORM: platform,
    BUILDOS: 'linux',
    BUILDARCH: architecture,
    BUILDVARIANT: '',
  };
}

/** @param given build arguments of the caller. @throws DockerfileError */
export function readStages(parsed: ParsedDockerfile, given: Variables, platform: Variables): StageGraph {
  const { escapeMark } = parsed;
  let globals: Variables = {};
  const stages: Stage[] = [];
  let current: { stage: Omit<Stage, 'instructions'>; instructions: Instruction[] } | undefined;
  const end = (): void => {
    if (current !== undefined) stages.push({ ...current.stage, instructions: current.instructions });
  };
  for (const instruction of parsed.instructions) {
    const { keyword, line } = instruction;
    if (keyword === 'FROM') {
      end();
      const names = stages.map(({ name }) => name);
      const scope = { line, escapeMark, variables: { ...platform, ...globals } };
      current = { stage: readFrom(instruction, names, scope), instructions: [] };
      if (stages.length >= DOCKERFILE_LIMITS.stagesMax) throw invalid(line, 'too many stages');
    } else if (current !== undefined) current.instructions.push(instruction);
    else if (keyword === 'ARG') {
      globals = { ...globals, ...readGlobals(instruction, given, { ...platform, ...globals }, escapeMark) };
    } else throw invalid(line, `${shown(keyword)} before the first FROM`);
  }
  end();
  if (stages.length === 0) throw invalid(null, 'the Dockerfile has no FROM');
  return { escapeMark, globals, stages };
}

function readGlobals(
  { line, rest }: Instruction,
  given: Variables,
  variables: Variables,
  escapeMark: string,
): Variables {
  const read = splitWords(rest, escapeMark).map((word) => {
    const { name, value } = readArgument(word, { line, escapeMark, variables });
    return [name, Object.hasOwn(given, name) ? given[name] : value] as const;
  });
  return Object.fromEntries(read.filter((pair): pair is [string, string] => pair[1] !== undefined));
}

/** `NAME` or `NAME=VALUE`. */
export function readArgument(
  word: string,
  scope: Scope,
): { readonly name: string; readonly value: string | undefined } {
  const equals = word.indexOf('=');
  const name = expandWord(equals < 0 ? word : word.slice(0, equals), scope);
  if (!/^[A-Za-z_]\w*$/.test(name)) throw invalid(scope.line, `"${shown(word)}" is not an argument`);
  return { name, value: equals < 0 ? undefined : expandWord(word.slice(equals + 1), scope) };
}

function readFrom(
  { line, flags, rest }: Instruction,
  earlier: readonly (string | null)[],
  scope: Scope,
): Omit<Stage, 'instructions'> {
  for (const { name, value } of flags) {
    if (name !== 'platform') throw unsupported(line, `FROM has no flag --${shown(name)}`);
    const wanted = expandWord(value, scope);
    const own = scope.variables['TARGETPLATFORM'];
    if (wanted !== own) {
      throw unsupported(line, `the platform ${shown(wanted)}`, `Only ${own} runs on this machine.`);
    }
  }
  const words = expandWords(rest, scope);
  const [image = '', as, name, ...more] = words;
  const isNamed = as?.toUpperCase() === 'AS' && name !== undefined;
  if (image === '' || more.length > 0 || (as !== undefined && !isNamed)) {
    throw invalid(line, `"FROM ${shown(rest)}" is not FROM IMAGE [AS NAME]`);
  }
  if (isNamed && !/^[a-z][a-z0-9-_.]*$/i.test(name)) {
    throw invalid(line, `"${shown(name)}" is not a name for a stage`);
  }
  const base = sourceOf(image, earlier);
  return { index: earlier.length, name: isNamed ? name.toLowerCase() : null, line, base };
}

function sourceOf(text: string, earlier: readonly (string | null)[]): Source {
  const index = earlier.lastIndexOf(text.toLowerCase());
  if (index >= 0) return { kind: 'stage', index };
  if (text === 'scratch') return { kind: 'scratch' };
  if (text === AGENT) return { kind: 'agent' };
  if (READY_MADE.has(text)) return { kind: 'ready-made', name: text };
  return { kind: 'image', reference: text };
}

/** Reads the value of `--from=`: name or number of an earlier stage, or an image. @throws DockerfileError */
export function sourceOfFrom(text: string, stages: readonly Stage[], own: number, line: number): Source {
  const earlier = stages.slice(0, own).map(({ name }) => name);
  if (/^\d+$/.test(text)) {
    const index = Number(text);
    if (index >= own) throw invalid(line, `there is no stage ${text} above this one`);
    return { kind: 'stage', index };
  }
  const later = stages.slice(own).some(({ name }) => name === text.toLowerCase());
  if (later) throw invalid(line, `the stage ${shown(text)} is not above this one`);
  const source = sourceOf(text, earlier);
  if (source.kind === 'scratch') throw invalid(line, 'scratch has no files');
  return source;
}

/** @param target name or number; `null` for the last. @throws DockerfileError `dockerfile_invalid` */
export function targetStage({ stages }: StageGraph, target: string | null): Stage {
  const wanted = target?.toLowerCase();
  const stage =
    wanted === undefined
      ? stages.at(-1)
      : (stages.findLast(({ name }) => name === wanted) ?? (/^\d+$/.test(wanted) ? stages[Number(wanted)] : undefined));
  if (stage !== undefined) return stage;
  const names = stages.flatMap(({ name }) => (name === null ? [] : [name]));
  const remedy = names.length === 0 ? undefined : `There are: ${names.join(', ')}.`;
  throw invalid(null, `there is no stage "${shown(target ?? '')}"`, remedy);
}
