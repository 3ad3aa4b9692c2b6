/** Reads the script of `run`, and refuses anything else before a VM is started. */
import { readFile, stat } from 'node:fs/promises';
import { basename, extname } from 'node:path';
import type { Readable } from 'node:stream';
import { errorCode } from '../../../base/errors.ts';
import { MIB } from '../../../base/units.ts';
import { UsageError } from '../../failure.ts';

export interface Script {
  readonly code: string;
  /** Shown in tracebacks and as `__file__`. */
  readonly filename: string;
  /** Path on this machine; null: standard input, or code of the command line. */
  readonly path: string | null;
}

export const SCRIPT_BYTES_MAX = 8 * MIB;

/** @param file a path, or `-` for standard input */
export async function readScript(file: string, stdin: Readable): Promise<Script> {
  if (file === '-') {
    return {
      code: decode(await readAll(stdin), 'standard input'),
      filename: '<stdin>',
      path: null,
    };
  }
  const bytes = await readRegularFile(file);
  return { code: decode(bytes, file), filename: basename(file), path: file };
}

async function readRegularFile(file: string): Promise<Buffer> {
  try {
    const info = await stat(file);
    if (info.isDirectory()) {
      throw new UsageError(`${file} is a directory`, 'name a Python file in it');
    }
    if (info.size > SCRIPT_BYTES_MAX) throw tooLarge(file);
    return await readFile(file);
  } catch (error) {
    if (error instanceof UsageError) throw error;
    if (errorCode(error) === 'ENOENT') {
      const hint = extname(file) === '' ? ` (did you mean ${file}.py?)` : '';
      throw new UsageError(`script ${file} does not exist${hint}`, 'check the path');
    }
    if (errorCode(error) === 'EACCES') {
      throw new UsageError(
        `cannot read script ${file}: permission denied`,
        'check its permissions',
      );
    }
    throw error;
  }
}

async function readAll(stream: Readable): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of stream) {
    bytes += chunk.length;
    if (bytes > SCRIPT_BYTES_MAX) throw tooLarge('standard input');
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
