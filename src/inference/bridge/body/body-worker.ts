/** A thread of `body-checker.ts`. Checks one body at a time; its bytes are transferred here and back. */
import { serveTurns } from '../../../base/fairness/turn-worker.ts';
import type { Checked } from '../../../base/http/refusal.ts';
import { type BodyCheck, type CheckedBody, checkBody } from './check-body.ts';

export interface BodyRequest {
  readonly bytes: Uint8Array;
  readonly check: BodyCheck;
}

export interface BodyAnswer {
  readonly bytes: Uint8Array;
  readonly checked: Checked<CheckedBody>;
}

serveTurns(({ bytes, check }: BodyRequest) => {
  const { buffer, byteOffset, byteLength } = bytes;
  const checked = checkBody(Buffer.from(buffer, byteOffset, byteLength), check);
  const answer: BodyAnswer = { bytes, checked };
  const transfer = [buffer as ArrayBuffer];
  for (const form of checked.ok ? Object.values(checked.value.forms) : []) {
    const written = form.bytes;
    // A small buffer may be a part of a shared one, which can't be transferred.
    if (written !== undefined && written.byteLength === written.buffer.byteLength) {
      transfer.push(written.buffer as ArrayBuffer);
    }
  }
  return { answer, transfer };
});
