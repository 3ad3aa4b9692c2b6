/** Reads values of an upstream's answer, which may be anything. Pure. */
import { isJsonObject } from '../json-body.ts';
import type { TextDelta } from './answer-piece.ts';

export const isText = (value: unknown): value is string => typeof value === 'string' && value !== '';

/** The text as a part; none if there is no text. */
export const textIn = (type: TextDelta['type'], text: unknown): readonly TextDelta[] =>
  isText(text) ? [{ type, text }] : [];

export function tokenCount(value: unknown): number | undefined {
  return Number.isSafeInteger(value) && Number(value) >= 0 ? Number(value) : undefined;
}

/** The upstream's message, which may contain the host's key. */
export function errorMessage(error: unknown): string {
  const message = isJsonObject(error) ? error['message'] : error;
  return isText(message) ? message : 'The model server reported an error.';
}
