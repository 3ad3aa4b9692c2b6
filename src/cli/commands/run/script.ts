/** Reads the script of `run`, and refuses anything else before a VM is started. */
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename, extname, join } from 'node:path';
import type { Readable } from 'node:stream';
import { errorCode } from '../../../base/errors.ts';
import { MIB } from '../../../base/units.ts';
import { UsageError } from '../../failure.ts';
import { isDirectory, isFile } from '../../flags/requirement-flags.ts';

export interface Script {
  readonly code: string;
  /** Shown in tracebacks and as `__file__`. */
  readonly filename: string;
  /** Path on this machine; null: standard input, or code of the command line. */
  readonly path: string | null;
  /** Directory of this machine whose files the script needs around it; null: the script is a file by itself. */
  readonly project: string | null;
}

export const SCRIPT_BYTES_MAX = 8 * MIB;

/**
 * @param file a path, or `-` for standard input
 * @param option that names an image, such as `--image X`, for the error: the word may be meant as a program of it
 */
export async function readScript(file: string, stdin: Readable, option?: string): Promise<Script> {
  if (file === '-') {
    return {
      code: decode(await readAll(stdin, 'standard input'), 'standard input'),
      filename: '<stdin>',
      path: null,
      project: null,
    };
  }
  if (await isDirectory(file)) return await readProject(file);
  const bytes = await readRegularFile(file, option);
  return { code: decode(bytes, file), filename: basename(file), path: file, project: null };
}

/** A directory runs as `python3 DIR` runs it. */
async function readProject(directory: string): Promise<Script> {
  const path = join(directory, '__main__.py');
  if (!(await isFile(path))) {
    throw new UsageError(
      `${directory} is a directory without __main__.py`,
      'name a Python file in it, add __main__.py, or run a module of this directory with -m',
    );
  }
  const bytes = await readRegularFile(path);
  return { code: decode(bytes, path), filename: basename(path), path, project: directory };
}

const MODULE = /^[\p{L}_][\p{L}\p{N}_]*(\.[\p{L}_][\p{L}\p{N}_]*)*$/u;

/** As `python3 -m`: the interpreter's own entry to it. @param project directory of the module */
export function moduleScript(name: string, project: string): Script {
  if (!MODULE.test(name)) {
    throw new UsageError(`-m ${name}: not the name of a module`, 'use for example -m package.module');
  }
  const code = `import sys; sys.argv[0] = '-m'; __import__('runpy')._run_module_as_main('${name}')`;
  return { code, filename: '<string>', path: null, project };
}

async function readRegularFile(file: string, option?: string): Promise<Buffer> {
  try {
    const info = await stat(file);
    if (info.size > SCRIPT_BYTES_MAX) throw tooLarge(file);
    return await readAll(createReadStream(file), file);
  } catch (error) {
    if (error instanceof UsageError) throw error;
    if (errorCode(error) === 'ENOENT') {
      const hint = extname(file) === '' ? ` (did you mean ${file}.py?)` : '';
      if (option !== undefined) {
        const remedy = `for a program of the image, use: neurovisor run ${option} -- ${file} …`;
        throw new UsageError(`script ${file} does not exist`, remedy);
      }
      throw new UsageError(`script ${file} does not exist${hint}`, 'check the path');
    }
    if (errorCode(error) === 'EACCES') {
      throw new UsageError(`cannot read script ${file}: permission denied`, 'check its permissions');
    }
    throw error;
  }
}

async function readAll(stream: Readable, what: string): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of stream) {
    bytes += chunk.length;
    if (bytes > SCRIPT_BYTES_MAX) throw tooLarge(what);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function decode(bytes: Buffer, what: string): string {
  if (bytes.includes(0)) {
    throw new UsageError(`${what} is binary, not Python source`, 'use a .py file');
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (error) {
    if (errorCode(error) !== 'ERR_ENCODING_INVALID_ENCODED_DATA') throw error;
    throw new UsageError(`${what} is not UTF-8 text`, 'save it as UTF-8');
  }
}

function tooLarge(what: string): UsageError {
  return new UsageError(
    `${what} is larger than ${SCRIPT_BYTES_MAX / MIB} MiB`,
    'copy data in separate files with --copy',
  );
}
