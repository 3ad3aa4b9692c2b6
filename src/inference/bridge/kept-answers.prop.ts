import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FairShare } from '../../base/fairness/fair-share.ts';
import { KEPT_ANSWERS_MAX, KeptAnswers, type KeptDraft, type KeptItem } from './kept-answers.ts';

const item = (id: string, bytes = 0): KeptItem => ({ id, json: 'x'.repeat(bytes) });
const MEMORY = { sumMax: 64_000, ownMax: 32_000, guaranteed: 1, places: 2 };

describe('KeptAnswers', () => {
  const action = fc.oneof(
    fc.record({
      type: fc.constant('answer' as const),
      previous: fc.nat(20),
      inputs: fc.array(fc.nat(4000), { maxLength: 3 }),
      output: fc.nat(9000),
      fate: fc.constantFrom('keep', 'end', 'leave'),
    }),
    fc.record({ type: fc.constant('delete' as const), which: fc.nat(20) }),
  );

  it('stays within its share, has whole conversations, and releases everything', () => {
    fc.assert(
      fc.property(fc.array(action, { maxLength: 60 }), (actions) => {
        const memory = new FairShare(MEMORY);
        const kept = new KeptAnswers(memory, 'a');
        const conversations = new Map<string, readonly string[]>();
        const drafts: KeptDraft[] = [];
        let count = 0;
        for (const one of actions) {
          if (one.type === 'delete') {
            const id = `r${one.which}`;
            const has = kept.get(id) !== undefined;
            expect(kept.delete(id)).toBe(has);
            expect(kept.get(id)).toBeUndefined();
            continue;
          }
          count += 1;
          const id = `r${count}`;
          const wanted = `r${one.previous}`;
          const previous = kept.get(wanted) === undefined ? undefined : wanted;
          const inputs = one.inputs.map((bytes, i) => item(`${id}-i${i}`, bytes));
          const draft = kept.begin(previous, inputs);
          if (draft === undefined) continue;
          drafts.push(draft);
          const output = item(`${id}-o`, one.output);
          if (one.fate === 'keep') {
            draft.keep(id, 'y'.repeat(10), [output]);
            const before = previous === undefined ? [] : (conversations.get(previous) ?? []);
            const own = [...inputs, output].map((part) => part.id);
            conversations.set(id, [...before, ...own]);
          }
          if (one.fate === 'end') draft.end();
          expect(memory.held).toBeLessThanOrEqual(MEMORY.ownMax);
          for (const [answer, ids] of conversations) {
            const found = kept.conversation(answer);
            if (found === undefined) continue;
            expect(found.map((part) => part.id)).toEqual(ids);
            expect(kept.get(answer)?.inputs.map((part) => part.id)).toEqual(ids.slice(0, -1));
            for (const part of ids) expect(kept.item(part)?.id).toBe(part);
          }
        }
        kept.close();
        for (const draft of drafts) draft.end();
        expect(memory.held).toBe(0);
        for (const ids of conversations.values()) {
          for (const id of ids) expect(kept.item(id)).toBeUndefined();
        }
      }),
    );
  });

  it('drops the oldest answers beyond the limit, but nothing that newer ones continue', () => {
    const kept = new KeptAnswers(new FairShare({ ...MEMORY, sumMax: 1e8, ownMax: 1e8 }), 'a');
    for (let i = 0; i <= KEPT_ANSWERS_MAX; i += 1) {
      const previous = i === 0 ? undefined : `r${i - 1}`;
      kept.begin(previous, [item(`i${i}`)])?.keep(`r${i}`, '', []);
    }
    expect(kept.size).toBe(KEPT_ANSWERS_MAX);
    expect(kept.get('r0')).toBeUndefined();
    expect(kept.conversation(`r${KEPT_ANSWERS_MAX}`)).toHaveLength(KEPT_ANSWERS_MAX + 1);
  });

  it('keeps neither an answer larger than the share nor anything after close', () => {
    const memory = new FairShare(MEMORY);
    const kept = new KeptAnswers(memory, 'a');
    expect(kept.begin(undefined, [item('i', MEMORY.ownMax)])).toBeUndefined();
    const draft = kept.begin(undefined, [item('i')]);
    draft?.keep('r1', 'y'.repeat(MEMORY.ownMax), []);
    expect(kept.get('r1')).toBeUndefined();
    const late = kept.begin(undefined, []);
    kept.close();
    late?.keep('r2', '', []);
    late?.end();
    expect([kept.size, memory.held]).toEqual([0, 0]);
    expect(kept.begin(undefined, [])).toBeUndefined();
  });
});
