/**
 * Reads the requirements of a project: `[project]` of pyproject.toml (PEP 621). A lock file is read by the tool that
 * wrote it.
 */
import { parse, type TomlTable } from 'smol-toml';
import { RequirementsError } from './errors.ts';
import type { ScriptMetadata } from './script-metadata.ts';
import { textOf, textsOf } from './toml.ts';

const CHARACTERS_MAX = 1_000_000;

/** @throws RequirementsError `project_invalid` */
export function projectMetadata(text: string): ScriptMetadata {
  if (text.length > CHARACTERS_MAX) throw invalid('it is too long');
  const { project } = parseProject(text);
  if (project === undefined) return { dependencies: [], requiresPython: null };
  if (!isTable(project)) throw invalid('[project] is not a table');
  const dynamic = textsOf(project['dynamic'], (why) => invalid(`dynamic: ${why}`));
  if (dynamic.includes('dependencies')) {
    throw invalid('its dependencies are computed by its build tool (dynamic)');
  }
  return {
    dependencies: textsOf(project['dependencies'], (why) => invalid(`dependencies: ${why}`)),
    requiresPython: textOf(project['requires-python'], (why) => invalid(`requires-python: ${why}`)),
  };
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
