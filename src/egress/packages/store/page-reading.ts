/**
 * Parses a page of an index and writes it anew for a guest. The page is as large and as odd as the index likes, so this
 * may run in a thread (`page-worker.ts`). Pure.
 */
import { type FileRules, permitsFile } from '../policy.ts';
import type { Artifact, Catalog, RawPage } from '../protocol/artifact.ts';
import { parseCargoIndex } from '../protocol/cargo.ts';
import { parsePackument } from '../protocol/npm.ts';
import { parsePypiPage } from '../protocol/pypi.ts';

/** Plain data: it is sent to a thread, and its bytes are shared. */
export interface PageToRead {
  /** Identifies this version of the page; the next one has another id. */
  readonly id: number;
  readonly index: 'pip' | 'npm' | 'cargo';
  readonly name: string;
  readonly page: RawPage;
  /** Base of crates (cargo); empty for others. */
  readonly dl: string;
}

export type PageQuestion =
  | { readonly kind: 'file'; readonly key: string }
  | {
      readonly kind: 'page';
      readonly rules: FileRules;
      /** Milliseconds since 1970. */
      readonly nowMs: number;
      readonly accept: string;
      /** Origin of the gateway, as the client reached it. */
      readonly origin: string;
    };

export type PageAnswer =
  /** Undefined if the page names no such file. */
  | { readonly kind: 'file'; readonly file: Artifact | undefined }
  | { readonly kind: 'page'; readonly contentType: string; readonly body: Uint8Array };

/** @throws PackageError `upstream_invalid` */
export function readPage({ index, name, page, dl }: PageToRead): Catalog {
  if (index === 'pip') return parsePypiPage(name, page);
  if (index === 'npm') return parsePackument(name, page);
  return parseCargoIndex(name, page, dl);
}

export function answerOf(catalog: Catalog, question: PageQuestion): PageAnswer {
  if (question.kind === 'file') return { kind: 'file', file: artifactOf(catalog, question.key) };
  const { rules, nowMs, accept, origin } = question;
  const permits = (file: Artifact): boolean => permitsFile(rules, catalog.name, file, nowMs).ok;
  const { contentType, body } = catalog.render(permits, accept, origin);
  return { kind: 'page', contentType, body: typeof body === 'string' ? Buffer.from(body) : body };
}

/** Strips members that only the page needs. */
function artifactOf(catalog: Catalog, key: string): Artifact | undefined {
  const found = catalog.find(key);
  if (found === undefined) return undefined;
  const { name, version, filename, url, digests, publishedMs, sizeBytes } = found;
  return { name, version, filename, url, digests, publishedMs, sizeBytes };
}
