/** Parses `RUN --mount=…`. Pure. */
import { hasWildcard } from '../../base/text/glob.ts';
import { invalid, shown, unsupported } from './errors.ts';
import { type Source, type Stage, sourceOfFrom } from './stages.ts';
import { expandWord, type Scope } from './words.ts';

export type RunMount =
  /** A directory that builds share, which is not part of the result. */
  | {
      readonly type: 'cache';
      readonly id: string;
      readonly target: string;
      readonly mode: number;
      readonly uid: number;
      readonly gid: number;
      readonly readonly: boolean;
    }
  /** A file with a value of the caller, a variable with it, or both. */
  | {
      readonly type: 'secret';
      readonly id: string;
      readonly target: string | null;
      readonly variable: string | null;
      readonly required: boolean;
      readonly mode: number;
      readonly uid: number;
      readonly gid: number;
    }
  | { readonly type: 'tmpfs'; readonly target: string }
  /** Files of another stage or image, or of the context (`null`), read-only. */
  | { readonly type: 'bind'; readonly from: Source | null; readonly source: string; readonly target: string };

/** @param text `type=cache,target=/x,…`. @throws DockerfileError */
export function readMount(text: string, scope: Scope, stages: readonly Stage[], own: number): RunMount {
  const { line } = scope;
  const fields = new Map<string, string>();
  for (const part of text.split(',')) {
    const equals = part.indexOf('=');
    const name = (equals < 0 ? part : part.slice(0, equals)).toLowerCase();
    fields.set(ALIASES.get(name) ?? name, equals < 0 ? 'true' : expandWord(part.slice(equals + 1), scope));
  }
  const take = (name: string): string | undefined => {
    const value = fields.get(name);
    fields.delete(name);
    return value;
  };
  const number = (name: string, radix: number, otherwise: number): number => {
    const value = take(name);
    if (value === undefined) return otherwise;
    const parsed = /^\d{1,10}$/.test(value) ? Number.parseInt(value, radix) : Number.NaN;
    if (Number.isNaN(parsed)) throw invalid(line, `--mount ${name}=${shown(value)}`);
    return parsed;
  };
  const flag = (name: string): boolean => {
    const value = take(name) ?? 'false';
    if (value !== 'true' && value !== 'false' && value !== '1' && value !== '0') {
      throw invalid(line, `--mount ${name}=${shown(value)}`);
    }
    return value === 'true' || value === '1';
  };
  const path = (): string => {
    const target = take('target');
    if (target === undefined || target === '') throw invalid(line, '--mount has no target');
    return target;
  };
  const type = take('type') ?? 'bind';
  let mount: RunMount;
  if (type === 'cache') {
    const target = path();
    if (fields.has('from')) throw unsupported(line, '--mount=type=cache with from');
    const id = take('id') ?? target;
    const readonly = flag('readonly');
    const sharing = take('sharing') ?? 'shared';
    if (!['shared', 'private', 'locked'].includes(sharing)) {
      throw invalid(line, `--mount sharing=${shown(sharing)}`);
    }
    const mode = number('mode', 8, 0o755);
    mount = { type, id, target, mode, uid: number('uid', 10, 0), gid: number('gid', 10, 0), readonly };
  } else if (type === 'secret') {
    const target = take('target');
    const variable = take('env') ?? null;
    const id = take('id') ?? target?.split('/').at(-1) ?? '';
    if (!/^[\w.-]{1,64}$/.test(id)) throw invalid(line, `the secret "${shown(id)}" has no valid id`);
    if (variable !== null && !/^[A-Za-z_]\w*$/.test(variable)) {
      throw invalid(line, `--mount env=${shown(variable)}`);
    }
    const required = flag('required');
    const file = target ?? (variable === null ? `/run/secrets/${id}` : null);
    const mode = number('mode', 8, 0o400);
    const owner = { uid: number('uid', 10, 0), gid: number('gid', 10, 0) };
    mount = { type, id, target: file, variable, required, mode, ...owner };
  } else if (type === 'tmpfs') {
    take('size');
    mount = { type, target: path() };
  } else if (type === 'bind') {
    const target = path();
    const from = take('from');
    take('readonly');
    if (flag('readwrite')) throw unsupported(line, '--mount=type=bind with readwrite', 'Use COPY.');
    const origin = from === undefined ? null : sourceOfFrom(from, stages, own, line);
    const source = take('source') ?? '.';
    if (origin === null && hasWildcard(source)) {
      throw unsupported(line, `--mount source=${shown(source)}`, 'A source has no wildcards.');
    }
    mount = { type, from: origin, source, target };
  } else throw unsupported(line, `--mount=type=${shown(type)}`);
  const [unknown] = fields.keys();
  if (unknown !== undefined) throw invalid(line, `--mount=type=${type} has no ${shown(unknown)}`);
  return mount;
}

const ALIASES: ReadonlyMap<string, string> = new Map([
  ['dst', 'target'],
  ['destination', 'target'],
  ['src', 'source'],
  ['ro', 'readonly'],
  ['rw', 'readwrite'],
]);
