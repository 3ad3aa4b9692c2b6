/**
 * Sets header fields that the owner of a sandbox wants in each request to a host, whatever the guest sends. Pure.
 *
 *     guest: Authorization: mine  ──► dropped, in any spelling
 *     owner: Authorization: Bearer …  ──► set, after the guest's fields
 */
import { plainFieldName } from '../http/fields.ts';
import { type Field, headText, type RequestHead } from '../http/head.ts';
import type { EgressSecret } from './secret.ts';

export function withoutSetFields(head: RequestHead, set: readonly EgressSecret[]): RequestHead {
  if (set.length === 0) return head;
  const fields = head.fields.flatMap((field) => {
    if (isSetField(field, set)) return [];
    return /^connection$/i.test(field.name) ? [withoutOptions(field, set)] : [field];
  });
  return { ...head, fields, forward: headText(head, fields) };
}

/** A proxy in front of the host drops the fields that `Connection` names (RFC 9110 section 7.6.1). */
function withoutOptions({ name, value }: Field, set: readonly EgressSecret[]): Field {
  const options = value.split(',').filter((one) => !isSetField({ name: one.trim(), value }, set));
  return { name, value: options.join(',').trim() };
}

/** Servers behind CGI read `X_Api_Key` as `X-Api-Key`. */
export function isSetField({ name }: Field, set: readonly EgressSecret[]): boolean {
  const plain = plainFieldName(name).toLowerCase();
  return set.some(({ sets = '' }) => plainFieldName(sets).toLowerCase() === plain);
}

export function withSetFields(forward: string, set: readonly EgressSecret[]): string {
  const lines = set.map(({ sets = '', value }) => `${sets}: ${value.reveal()}\r\n`);
  return `${forward.slice(0, -2)}${lines.join('')}\r\n`;
}
