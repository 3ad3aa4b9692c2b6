/**
 * Reads the header of a GGUF file: what a model declares about itself, before the file is trusted to llama.cpp. The
 * file is hostile, so each count and length is bounded, and the tensors must lie inside the file. Pure but for
 * `readGguf`.
 *
 *     "GGUF", version, counts │ keys with values │ tensors: name, shape, type, offset │ padding │ data
 *
 * Format: GGUF 2 and 3, little-endian (ggml, docs/gguf.md). Numbers of types: `ggml.h`; of quantizations: `llama.h`.
 */
import { constants, type FileHandle, open } from 'node:fs/promises';
import { MIB } from '../../base/units.ts';
import { EngineError } from './errors.ts';

/** Properties that `models ls` shows, and on which the parts of a split model must agree. */
export interface GgufHeader {
  /** E.g. `llama`, `qwen3`; `null` for a later part of a split model. */
  readonly architecture: string | null;
  /**
   * Quantization that the author declares for the file, e.g. `Q4_K_M`, else the type of most weights; `null` without
   * weights.
   */
  readonly quantization: string | null;
  /** Number of parameters in the tensors of this file. */
  readonly parameters: number;
  /** Longest context of the training, in tokens. */
  readonly contextTokens: number | null;
  readonly hasChatTemplate: boolean;
  /** Part of a split model, counted from 0; `null` if the file is a whole model. */
  readonly split: { readonly index: number; readonly count: number } | null;
}

/** Vocabularies have up to 20 MB. */
export const GGUF_HEADER_BYTES_MAX = 64 * MIB;
const FIRST_READ_BYTES = 256 * 1024;
const KEYS_MAX = 65_536;
const TENSORS_MAX = 65_536;
const KEY_BYTES_MAX = 65_535;
const TENSOR_NAME_BYTES_MAX = 256;
const DIMENSIONS_MAX = 4;
const ALIGNMENT_MAX = 65_536;
/** Limit of a string that is shown. */
const SHOWN_CHARACTERS_MAX = 64;
const SPLITS_MAX = 1_000;

/** The bytes end before the header does; more of the file may contain it. */
export class Truncated extends Error {}

/**
 * Reads the header of a file.
 * @param shown name of the file in errors
 * @throws EngineError `model_missing`, `model_invalid`
 */
export async function readGguf(path: string, shown = path): Promise<GgufHeader> {
  let file: FileHandle;
  try {
    // Without O_NONBLOCK, opening a pipe would wait for a writer.
    file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (cause) {
    throw new EngineError('model_missing', `no readable model file at ${shown}`, {
      cause,
      remedy: 'give the path of a GGUF file',
    });
  }
  try {
    const stats = await file.stat();
    if (!stats.isFile()) throw notGguf(shown, 'it is not a regular file');
    const most = Math.min(stats.size, GGUF_HEADER_BYTES_MAX);
    for (let bytes = Math.min(FIRST_READ_BYTES, most); ; bytes = Math.min(4 * bytes, most)) {
      const head = Buffer.alloc(bytes);
      const { bytesRead } = await file.read(head, 0, bytes, 0);
      try {
        return parseGguf(head.subarray(0, bytesRead), stats.size);
      } catch (error) {
        if (!(error instanceof Truncated)) throw withName(error, shown);
        if (bytes < most) continue;
        throw notGguf(shown, most < stats.size ? 'its header is too large' : 'it ends inside its header');
      }
    }
  } finally {
    await file.close();
  }
}

/**
 * @param head beginning of the file
 * @param fileBytes size of the whole file
 * @throws EngineError `model_invalid`; Truncated
 */
export function parseGguf(head: Uint8Array, fileBytes: number): GgufHeader {
  const reader = new Reader(head);
  if (reader.text(4) !== 'GGUF') throw invalid('it does not begin with GGUF');
  const version = reader.u32();
  if (version !== 2 && version !== 3) {
    // A big-endian file has its version in reversed byte order.
    throw invalid(`it has version ${version}, not 2 or 3`);
  }
  const tensors = reader.count(TENSORS_MAX, 'tensors');
  const keys = reader.count(KEYS_MAX, 'keys');
  const values = readValues(reader, keys);
  const weights = readTensors(reader, tensors);
  const alignment = alignmentOf(values);
  const dataAt = Math.ceil(reader.at / alignment) * alignment;
  if (dataAt + weights.bytes > fileBytes) {
    const missing = dataAt + weights.bytes - fileBytes;
    throw invalid(`its last ${missing} bytes are missing: the copy is not complete`);
  }
  const architecture = shownText(values.get('general.architecture'));
  return {
    architecture,
    quantization: quantizationOf(values.get('general.file_type'), weights.byType),
    parameters: weights.parameters,
    contextTokens: countOf(values.get(`${architecture}.context_length`)),
    hasChatTemplate: values.has('tokenizer.chat_template'),
    split: splitOf(values),
  };
}

type Value = number | string | true;

/** Keeps numbers and strings; for lists and booleans only that they exist. */
function readValues(reader: Reader, keys: number): Map<string, Value> {
  const values = new Map<string, Value>();
  for (let i = 0; i < keys; i += 1) {
    const key = reader.text(reader.count(KEY_BYTES_MAX, 'bytes of a key'));
    if (values.has(key)) throw invalid('it has a key twice');
    values.set(key, readValue(reader, reader.u32()));
  }
  return values;
}

const STRING = 8;
const ARRAY = 9;
/** Size of a value in bytes, by its type: integers, float32, bool; then 64-bit numbers. */
const VALUE_BYTES: ReadonlyMap<number, number> = new Map([
  ...([0, 1, 7].map((type) => [type, 1]) as [number, number][]),
  ...([2, 3].map((type) => [type, 2]) as [number, number][]),
  ...([4, 5, 6].map((type) => [type, 4]) as [number, number][]),
  ...([10, 11, 12].map((type) => [type, 8]) as [number, number][]),
]);
const UNSIGNED: ReadonlySet<number> = new Set([0, 2, 4, 10]);

function readValue(reader: Reader, type: number): Value {
  if (type === STRING) return reader.string();
  if (type === ARRAY) {
    const element = reader.u32();
    const count = reader.count(GGUF_HEADER_BYTES_MAX, 'elements of a list');
    if (element === STRING) for (let i = 0; i < count; i += 1) reader.skipString();
    else reader.skip(count * sizeOfValue(element));
    return true;
  }
  const bytes = sizeOfValue(type);
  if (UNSIGNED.has(type)) return reader.unsigned(bytes);
  reader.skip(bytes);
  return true;
}

function sizeOfValue(type: number): number {
  const bytes = VALUE_BYTES.get(type);
  // Nested lists, which llama.cpp refuses too.
  if (bytes === undefined) throw invalid(`it has a value of the unknown type ${type}`);
  return bytes;
}

interface TensorType {
  readonly name: string;
  /** Numbers in a block, and its size in bytes. */
  readonly block: number;
  readonly bytes: number;
}

const type = (name: string, block: number, bytes: number): TensorType => ({ name, block, bytes });
const TENSOR_TYPES: Readonly<Record<number, TensorType>> = {
  0: type('F32', 1, 4),
  1: type('F16', 1, 2),
  2: type('Q4_0', 32, 18),
  3: type('Q4_1', 32, 20),
  6: type('Q5_0', 32, 22),
  7: type('Q5_1', 32, 24),
  8: type('Q8_0', 32, 34),
  9: type('Q8_1', 32, 36),
  10: type('Q2_K', 256, 84),
  11: type('Q3_K', 256, 110),
  12: type('Q4_K', 256, 144),
  13: type('Q5_K', 256, 176),
  14: type('Q6_K', 256, 210),
  15: type('Q8_K', 256, 292),
  16: type('IQ2_XXS', 256, 66),
  17: type('IQ2_XS', 256, 74),
  18: type('IQ3_XXS', 256, 98),
  19: type('IQ1_S', 256, 50),
  20: type('IQ4_NL', 32, 18),
  21: type('IQ3_S', 256, 110),
  22: type('IQ2_S', 256, 82),
  23: type('IQ4_XS', 256, 136),
  24: type('I8', 1, 1),
  25: type('I16', 1, 2),
  26: type('I32', 1, 4),
  27: type('I64', 1, 8),
  28: type('F64', 1, 8),
  29: type('IQ1_M', 256, 56),
  30: type('BF16', 1, 2),
  34: type('TQ1_0', 256, 54),
  35: type('TQ2_0', 256, 66),
  39: type('MXFP4', 32, 17),
};

interface Weights {
  readonly parameters: number;
  readonly bytes: number;
  readonly byType: ReadonlyMap<string, number>;
}

function readTensors(reader: Reader, count: number): Weights {
  const byType = new Map<string, number>();
  let parameters = 0;
  let bytes = 0;
  for (let i = 0; i < count; i += 1) {
    reader.skip(reader.count(TENSOR_NAME_BYTES_MAX, 'bytes of a name'));
    const dimensions = reader.u32();
    if (dimensions > DIMENSIONS_MAX) throw invalid(`it has a tensor of ${dimensions} dimensions`);
    let numbers = 1;
    for (let d = 0; d < dimensions; d += 1) {
      numbers *= reader.count(Number.MAX_SAFE_INTEGER, 'numbers');
    }
    const kind = reader.u32();
    const offset = reader.count(Number.MAX_SAFE_INTEGER, 'bytes before a tensor');
    parameters += numbers;
    if (!Number.isSafeInteger(parameters)) throw invalid('its tensors are too large');
    // For a type newer than this table, only the beginning is known.
    const found = Object.hasOwn(TENSOR_TYPES, kind) ? TENSOR_TYPES[kind] : undefined;
    if (found !== undefined) byType.set(found.name, (byType.get(found.name) ?? 0) + numbers);
    const own = found === undefined ? 0 : Math.ceil(numbers / found.block) * found.bytes;
    bytes = Math.max(bytes, offset + own);
  }
  return { parameters, bytes, byType };
}

const FILE_TYPES: Readonly<Record<number, string>> = {
  0: 'F32',
  1: 'F16',
  2: 'Q4_0',
  3: 'Q4_1',
  7: 'Q8_0',
  8: 'Q5_0',
  9: 'Q5_1',
  10: 'Q2_K',
  11: 'Q3_K_S',
  12: 'Q3_K_M',
  13: 'Q3_K_L',
  14: 'Q4_K_S',
  15: 'Q4_K_M',
  16: 'Q5_K_S',
  17: 'Q5_K_M',
  18: 'Q6_K',
  19: 'IQ2_XXS',
  20: 'IQ2_XS',
  21: 'Q2_K_S',
  22: 'IQ3_XS',
  23: 'IQ3_XXS',
  24: 'IQ1_S',
  25: 'IQ4_NL',
  26: 'IQ3_S',
  27: 'IQ3_M',
  28: 'IQ2_S',
  29: 'IQ2_M',
  30: 'IQ4_XS',
  31: 'IQ1_M',
  32: 'BF16',
  36: 'TQ1_0',
  37: 'TQ2_0',
  38: 'MXFP4_MOE',
};

function quantizationOf(fileType: Value | undefined, byType: ReadonlyMap<string, number>): string | null {
  if (typeof fileType === 'number' && Object.hasOwn(FILE_TYPES, fileType)) {
    return FILE_TYPES[fileType] ?? null;
  }
  const [most] = [...byType].toSorted(([, a], [, b]) => b - a);
  return most?.[0] ?? null;
}

function alignmentOf(values: ReadonlyMap<string, Value>): number {
  const alignment = values.get('general.alignment') ?? 32;
  if (typeof alignment !== 'number' || alignment < 1 || alignment > ALIGNMENT_MAX) {
    throw invalid('its alignment is not valid');
  }
  return alignment;
}

function splitOf(values: ReadonlyMap<string, Value>): GgufHeader['split'] {
  const count = countOf(values.get('split.count')) ?? 0;
  if (count <= 1) return null;
  const index = countOf(values.get('split.no')) ?? 0;
  if (count > SPLITS_MAX || index >= count) throw invalid('its number among its parts is wrong');
  return { index, count };
}

function countOf(value: Value | undefined): number | null {
  if (typeof value !== 'number') return null;
  // Numbers kept of a model must be exact.
  if (!Number.isSafeInteger(value)) throw invalid('it has a count that is too large');
  return value;
}

/** `null` for anything but a word. */
function shownText(value: Value | undefined): string | null {
  if (typeof value !== 'string' || value.length > SHOWN_CHARACTERS_MAX) return null;
  return /^[\w.+-]+$/.test(value) ? value : null;
}

class Reader {
  at = 0;
  readonly #bytes: Buffer;

  constructor(bytes: Uint8Array) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** @returns offset before skipping */
  skip(bytes: number): number {
    const from = this.at;
    // Above 2^53 sums are not exact, but still larger than any file.
    if (from + bytes > this.#bytes.length) throw new Truncated('the header is cut off');
    this.at = from + bytes;
    return from;
  }

  u32(): number {
    return this.#bytes.readUInt32LE(this.skip(4));
  }

  unsigned(bytes: number): number {
    return bytes === 8
      ? Number(this.#bytes.readBigUInt64LE(this.skip(8)))
      : this.#bytes.readUIntLE(this.skip(bytes), bytes);
  }

  count(most: number, what: string): number {
    const count = this.#bytes.readBigUInt64LE(this.skip(8));
    if (count > BigInt(most)) throw invalid(`it says that it has ${count} ${what}`);
    return Number(count);
  }

  text(bytes: number): string {
    const from = this.skip(bytes);
    return this.#bytes.toString('latin1', from, from + bytes);
  }

  skipString(): void {
    this.skip(this.count(GGUF_HEADER_BYTES_MAX, 'bytes of text'));
  }

  /** Returns only the beginning of a long string. */
  string(): string {
    const bytes = this.count(GGUF_HEADER_BYTES_MAX, 'bytes of text');
    const from = this.skip(bytes);
    return this.#bytes.toString('latin1', from, from + Math.min(bytes, SHOWN_CHARACTERS_MAX + 1));
  }
}

function invalid(why: string): EngineError {
  return new EngineError('model_invalid', 'this is not a usable GGUF file', { cause: why });
}

const REMEDY = 'use a model in the GGUF format, and copy or download it again if it is one';

function notGguf(shown: string, cause: unknown): EngineError {
  return new EngineError('model_invalid', `${shown} is not a usable GGUF file`, { cause, remedy: REMEDY });
}

const withName = (error: unknown, shown: string): unknown =>
  error instanceof EngineError ? notGguf(shown, error.cause) : error;
