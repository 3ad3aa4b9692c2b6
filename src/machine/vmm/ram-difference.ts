/**
 * The file format of a VM's changes to mapped RAM (little-endian):
 *
 *     header                                            data of the first run, the next … │ table
 *     "NVramdif" · u32 version · u32 bytes of a page     whole pages                       │ u32 first page
 *     u64 bytes of RAM · 32 bytes SHA-256 of the base                                      │ u32 pages, and the highest bit:
 *     u32 runs · u32 pages of data                                                         │   all zeros, without data
 *
 * Pages in no run are as in the base. A page that became zero is in a run: the base may have data there. The table
 * is last, so that data can be written as it is found.
 */
import { assert } from '../../base/assert.ts';
import { PAGE_BYTES } from '../../sys/memory.ts';
import { VmmError } from './errors.ts';

export const DIFFERENCE_HEADER_BYTES = 64;
const RUN_BYTES = 8;
const MAGIC = Buffer.from('NVramdif', 'latin1');
const VERSION = 1;
const ZERO_FLAG = 0x8000_0000;
const DIGEST = /^[0-9a-f]{64}$/;

export interface RamRun {
  /** Number of its first page. */
  readonly page: number;
  readonly pages: number;
  /** Its data is not in the file. */
  readonly isZero: boolean;
}

export interface DifferenceHeader {
  /** SHA-256 of the RAM that it is based on, as the store computes it; lower-case hex. */
  readonly baseDigest: string;
  readonly ramBytes: number;
  readonly runs: number;
  readonly dataPages: number;
}

/** Position of the data. */
export const DATA_OFFSET = DIFFERENCE_HEADER_BYTES;

export const tableOffset = ({ dataPages }: Pick<DifferenceHeader, 'dataPages'>): number =>
  DATA_OFFSET + dataPages * PAGE_BYTES;

export const tableBytes = ({ runs }: Pick<DifferenceHeader, 'runs'>): number => runs * RUN_BYTES;

/** Collects pages in ascending order. */
export class RunCollector {
  readonly #runs: { page: number; pages: number; isZero: boolean }[] = [];
  dataPages = 0;

  add(page: number, isZero: boolean): void {
    if (!isZero) this.dataPages += 1;
    const last = this.#runs.at(-1);
    if (last?.isZero === isZero && last.page + last.pages === page) last.pages += 1;
    else this.#runs.push({ page, pages: 1, isZero });
  }

  get runs(): readonly RamRun[] {
    return this.#runs;
  }
}

/** @param ramBytes, baseDigest as in `DifferenceHeader` */
export function differenceHeader(
  { runs, dataPages }: Pick<RunCollector, 'runs' | 'dataPages'>,
  { ramBytes, baseDigest }: Pick<DifferenceHeader, 'ramBytes' | 'baseDigest'>,
): Buffer {
  assert(DIGEST.test(baseDigest), 'a digest of a base');
  const header = Buffer.alloc(DIFFERENCE_HEADER_BYTES);
  MAGIC.copy(header);
  header.writeUInt32LE(VERSION, 8);
  header.writeUInt32LE(PAGE_BYTES, 12);
  header.writeUIntLE(ramBytes, 16, 6);
  header.write(baseDigest, 24, 'hex');
  header.writeUInt32LE(runs.length, 56);
  header.writeUInt32LE(dataPages, 60);
  return header;
}

export function differenceTable(runs: readonly RamRun[]): Buffer {
  const table = Buffer.alloc(runs.length * RUN_BYTES);
  for (const [index, { page, pages, isZero }] of runs.entries()) {
    table.writeUInt32LE(page, index * RUN_BYTES);
    table.writeUInt32LE(isZero ? (pages | ZERO_FLAG) >>> 0 : pages, index * RUN_BYTES + 4);
  }
  return table;
}

/**
 * @param bytes the first `DIFFERENCE_HEADER_BYTES` of the file
 * @param fileBytes size of the file
 * @param expected facts of the VM that loads it, and of its mapped RAM; the RAM bounds the table
 * @throws VmmError `snapshot_refused`
 */
export function parseDifferenceHeader(
  bytes: Buffer,
  fileBytes: number,
  expected: Pick<DifferenceHeader, 'ramBytes'> & Partial<Pick<DifferenceHeader, 'baseDigest'>>,
): DifferenceHeader {
  if (bytes.length !== DIFFERENCE_HEADER_BYTES || !bytes.subarray(0, 8).equals(MAGIC)) {
    throw refused('it is not a difference of RAM');
  }
  const version = bytes.readUInt32LE(8);
  if (version !== VERSION) throw refused(`its version is ${version}, not ${VERSION}`);
  if (bytes.readUInt32LE(12) !== PAGE_BYTES) throw refused('its pages have another size');
  const ramBytes = Number(bytes.readBigUInt64LE(16));
  if (ramBytes !== expected.ramBytes) {
    throw refused(`it is for ${ramBytes} bytes of RAM, not ${expected.ramBytes}`);
  }
  const baseDigest = bytes.toString('hex', 24, 56);
  if (expected.baseDigest !== undefined && baseDigest !== expected.baseDigest) {
    throw refused('it belongs to other RAM');
  }
  const header = { baseDigest, ramBytes, runs: bytes.readUInt32LE(56), dataPages: bytes.readUInt32LE(60) };
  const pagesMax = ramBytes / PAGE_BYTES;
  if (header.runs > pagesMax || header.dataPages > pagesMax) throw refused('it has too many pages');
  const wanted = tableOffset(header) + tableBytes(header);
  if (fileBytes !== wanted) throw refused(`it has ${fileBytes} of ${wanted} bytes`);
  return header;
}

/**
 * @param table the `tableBytes` at the end of the file
 * @returns ascending runs within the RAM that do not overlap, and have as much data as the header says
 * @throws VmmError `snapshot_refused`
 */
export function parseDifferenceTable(
  table: Buffer,
  header: Pick<DifferenceHeader, 'ramBytes' | 'runs' | 'dataPages'>,
): readonly RamRun[] {
  if (table.length !== tableBytes(header)) throw refused('its table is cut off');
  const runs: RamRun[] = [];
  const pagesMax = header.ramBytes / PAGE_BYTES;
  let next = 0;
  let dataPages = 0;
  for (let at = 0; at < table.length; at += RUN_BYTES) {
    const page = table.readUInt32LE(at);
    const word = table.readUInt32LE(at + 4);
    const isZero = word >= ZERO_FLAG;
    const pages = isZero ? word - ZERO_FLAG : word;
    if (pages === 0) throw refused('it has an empty run');
    if (page < next) throw refused('its runs overlap');
    next = page + pages;
    if (next > pagesMax) throw refused('it has a run beyond the RAM');
    if (!isZero) dataPages += pages;
    runs.push({ page, pages, isZero });
  }
  if (dataPages !== header.dataPages) throw refused('its runs have not the size of its data');
  return runs;
}

function refused(cause: string): VmmError {
  return new VmmError('snapshot_refused', "could not load a snapshot's difference of RAM", {
    cause,
    remedy: 'Remove the snapshot and create a new one.',
  });
}
