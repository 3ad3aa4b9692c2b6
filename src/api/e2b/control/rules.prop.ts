import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { makeRequestHeaders } from '../../../sandbox/contract/request-headers.ts';
import { secretInfo } from '../../../sandbox/contract/secrets.ts';
import { networkLists } from '../kept.ts';
import { HIDDEN, requestHeadersOf, rulesOf } from './rules.ts';

const host = fc
  .tuple(fc.boolean(), fc.constantFrom('a', 'b.c'))
  .map(([isWild, name]) => `${isWild ? '*.' : ''}${name}.example`);
const headers = fc.dictionary(
  fc.constantFrom('Authorization', 'authorization', 'X-Api-Key', 'X-Trace'),
  fc.stringMatching(/^[!-~]{20,40}$/),
);
const rules = fc.dictionary(host, fc.array(fc.record({ transform: fc.record({ headers }) })));

describe('requestHeadersOf', () => {
  it('sets fields by the last rule; answers show names and no value', () => {
    fc.assert(
      fc.property(rules, (given) => {
        const made = makeRequestHeaders(requestHeadersOf(given));
        const last = new Map<string, string>();
        for (const [name, list] of Object.entries(given)) {
          for (const { transform } of list) {
            for (const [field, value] of Object.entries(transform.headers)) {
              last.set(`${name} ${field.toLowerCase()}`, value);
            }
          }
        }
        const set = made.map(({ name, hosts, value }): [string, string | undefined] => [
          `${hosts.join()} ${name.toLowerCase()}`,
          value?.reveal(),
        ]);
        expect(new Map(set)).toEqual(last);
        const shown = rulesOf({ secrets: secretInfo(made) }) ?? {};
        const fields = Object.entries(shown).flatMap(([name, list]) =>
          Object.entries(list?.[0]?.transform?.headers ?? {}).map(([field, value]) => {
            expect(value).toBe(HIDDEN);
            return `${name} ${field.toLowerCase()}`;
          }),
        );
        expect(fields.toSorted()).toEqual([...last.keys()].toSorted());
      }),
    );
  });
  it('refuses any JSON with a typed error, or reads it', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        const parsed = networkLists.rules.safeParse(value);
        if (!parsed.success) return;
        try {
          makeRequestHeaders(requestHeadersOf(parsed.data));
        } catch (error) {
          expect(error).toMatchObject({ code: expect.stringMatching(/^(?:400|spec_invalid)$/) });
        }
      }),
    );
  });
});
