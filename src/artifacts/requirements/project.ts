/**
 * Reads the requirements of a project: `[project]` of pyproject.toml (PEP 621). A lock file is read by the tool that
 * wrote it.
 */
import { parse, type TomlTable } from 'smol-toml';
import { RequirementsError } from './errors.ts';
import { normalName } from './requirement.ts';
import type { ScriptMetadata } from './script-metadata.ts';
import { textOf, textsOf } from './toml.ts';

const CHARACTERS_MAX = 1_000_000;

/** Includes of extras and groups in each other. */
const DEPTH_MAX = 8;

export interface ProjectMetadata extends ScriptMetadata {
  /** Those of the wanted names that are dependency groups (PEP 735); the others are extras. */
  readonly groups: readonly string[];
}

/**
 * @param wanted extras of the project, or dependency groups: their requirements follow the project's own
 * @throws RequirementsError `project_invalid`
 */
export function projectMetadata(text: string, wanted: readonly string[] = []): ProjectMetadata {
  if (text.length > CHARACTERS_MAX) throw invalid('it is too long');
  const whole = parseProject(text);
  const project = tableOf(whole['project'], '[project]');
  const dynamic = textsOf(project['dynamic'], (why) => invalid(`dynamic: ${why}`));
  const computed = ['dependencies', ...(wanted.length > 0 ? ['optional-dependencies'] : [])];
  if (computed.some((one) => dynamic.includes(one))) {
    throw invalid('its dependencies are computed by its build tool (dynamic)');
  }
  const parts = {
    name: textOf(project['name'], (why) => invalid(`name: ${why}`)),
    extras: byNormalName(project['optional-dependencies'], '[project.optional-dependencies]'),
    groups: byNormalName(whole['dependency-groups'], '[dependency-groups]'),
  };
  const own = textsOf(project['dependencies'], (why) => invalid(`dependencies: ${why}`));
  return {
    dependencies: [...own, ...wanted.flatMap((name) => requirementsFor(name, parts))],
    requiresPython: textOf(project['requires-python'], (why) => invalid(`requires-python: ${why}`)),
    groups: wanted.filter((name) => !parts.extras.has(normalName(name))),
  };
}

interface Parts {
  readonly name: string | null;
  readonly extras: ReadonlyMap<string, unknown>;
  readonly groups: ReadonlyMap<string, unknown>;
}

function requirementsFor(name: string, parts: Parts, depth = 0): readonly string[] {
  if (depth > DEPTH_MAX) throw invalid(`"${name}" includes others too deeply`);
  const { extras, groups } = parts;
  const listed = extras.get(normalName(name)) ?? groups.get(normalName(name));
  if (listed === undefined) {
    const all = [...extras.keys(), ...groups.keys()];
    const there = all.length === 0 ? 'it has none' : `it has ${all.slice(0, NAMES_SHOWN).join(', ')}`;
    throw invalid(`it has no extra and no dependency group "${name}"; ${there}`);
  }
  if (!Array.isArray(listed)) throw invalid(`"${name}" must be a list`);
  return listed.flatMap((one: unknown) => {
    if (isTable(one) && typeof one['include-group'] === 'string') {
      return requirementsFor(one['include-group'], { ...parts, extras: NONE }, depth + 1);
    }
    if (typeof one !== 'string') throw invalid(`"${name}" must be a list of strings`);
    const nested = parts.name === null ? null : ownExtras(one, parts.name);
    return nested?.flatMap((extra) => requirementsFor(extra, parts, depth + 1)) ?? [one];
  });
}

const NONE: ReadonlyMap<string, unknown> = new Map();
const NAMES_SHOWN = 20;

/** Of a requirement on the project itself, `name[a,b]`; null: it is on another. */
function ownExtras(requirement: string, project: string): readonly string[] | null {
  const [, name = '', extras] = /^([\w.-]+)\s*\[([\w.,\s-]*)\]\s*$/.exec(requirement.trim()) ?? [];
  if (extras === undefined || normalName(name) !== normalName(project)) return null;
  return extras.split(',').map((one) => one.trim());
}

function byNormalName(value: unknown, what: string): ReadonlyMap<string, unknown> {
  return new Map(Object.entries(tableOf(value, what)).map(([name, listed]) => [normalName(name), listed]));
}

function tableOf(value: unknown, what: string): TomlTable {
  if (value === undefined) return {};
  if (!isTable(value)) throw invalid(`${what} is not a table`);
  return value;
}

function parseProject(text: string): TomlTable {
  try {
    return parse(text);
  } catch (error) {
    throw invalid('it is not TOML', error);
  }
}

function isTable(value: unknown): value is TomlTable {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function invalid(why: string, cause?: unknown): RequirementsError {
  return new RequirementsError('project_invalid', `pyproject.toml can't be used: ${why}`, {
    cause,
    remedy: 'correct it, or name the packages in a requirements file (--requirements FILE)',
  });
}
