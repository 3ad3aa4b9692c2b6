/** A thread of `page-reader.ts`. Parses pages and keeps the last ones parsed, since clients ask for page and file. */
import { serveTurns } from '../../../base/fairness/turn-worker.ts';
import { MIB } from '../../../base/units.ts';
import { PackageError } from '../errors.ts';
import type { Catalog } from '../protocol/artifact.ts';
import { answerOf, type PageAnswer, type PageQuestion, type PageToRead, readPage } from './page-reading.ts';

export interface PageJob {
  readonly page: PageToRead;
  readonly question: PageQuestion;
}

/** `invalid`: the page violates its protocol. */
export type PageVerdict = PageAnswer | { readonly kind: 'invalid'; readonly message: string };

/** Size of the unparsed pages; parsed, they are several times as large. */
const KEPT_BYTES_MAX = 16 * MIB;

/** In order of use. */
const kept = new Map<number, { readonly catalog: Catalog; readonly bytes: number }>();

function catalogOf(page: PageToRead): Catalog {
  const known = kept.get(page.id);
  if (known !== undefined) {
    kept.delete(page.id);
    kept.set(page.id, known);
    return known.catalog;
  }
  const bytes = page.page.body.byteLength;
  // Makes room first, since parsing a large page takes most of the heap.
  let total = bytes + [...kept.values()].reduce((sum, one) => sum + one.bytes, 0);
  for (const [id, one] of kept) {
    if (total <= KEPT_BYTES_MAX) break;
    kept.delete(id);
    total -= one.bytes;
  }
  const { buffer, byteOffset, byteLength } = page.page.body;
  const body = Buffer.from(buffer, byteOffset, byteLength);
  const catalog = readPage({ ...page, page: { ...page.page, body } });
  kept.set(page.id, { catalog, bytes });
  return catalog;
}

serveTurns<PageJob, PageVerdict>(({ page, question }) => {
  let answer: PageVerdict;
  try {
    answer = answerOf(catalogOf(page), question);
  } catch (error) {
    if (!(error instanceof PackageError)) throw error;
    answer = { kind: 'invalid', message: error.message };
  }
  if (answer.kind !== 'page') return { answer, transfer: [] };
  // Copied, since small buffers share their memory.
  const body = Uint8Array.from(answer.body);
  return { answer: { ...answer, body }, transfer: [body.buffer] };
});
