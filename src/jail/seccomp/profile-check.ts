/** What a profile says against itself: mistakes that would make a filter other than what it reads as. Pure. */
import {
  type Action,
  actionText,
  allBits,
  type Condition,
  invalid,
  type Rule,
  type ThreadFilter,
} from './profile.ts';

/** @throws JailError `profile_invalid` */
export function checkRules(filter: ThreadFilter): void {
  const where = `thread "${filter.name}"`;
  if (sameAction(filter.defaultAction, filter.filterAction)) {
    const text = actionText(filter.defaultAction);
    throw invalid(
      `${where}: default_action and filter_action are both ${text}, so no entry counts`,
    );
  }
  const before = new Map<string, Rule[]>();
  for (const [index, rule] of filter.rules.entries()) {
    const at = `${where}: filter[${index}] (${rule.syscall})`;
    checkConditions(rule.conditions, at);
    const earlier = before.get(rule.syscall) ?? [];
    for (const other of earlier) {
      const isSame = sameAction(
        rule.action ?? filter.filterAction,
        other.action ?? filter.filterAction,
      );
      if (!isSame && covers(other, rule))
        throw invalid(`${at}: an entry before it decides the same calls otherwise`);
    }
    before.set(rule.syscall, [...earlier, rule]);
  }
}

/** Entries that change nothing, since one of the same thread already says it: as text, by place. */
export function redundantRules(filter: ThreadFilter): string[] {
  return filter.rules.flatMap((rule, index) => {
    const by = filter.rules.findIndex(
      (other, at) =>
        at !== index &&
        other.syscall === rule.syscall &&
        sameAction(other.action ?? filter.filterAction, rule.action ?? filter.filterAction) &&
        covers(other, rule) &&
        (at < index || !covers(rule, other)),
    );
    return by < 0 ? [] : [`filter[${index}] (${rule.syscall}): filter[${by}] says that already`];
  });
}

function checkConditions(conditions: readonly Condition[], at: string): void {
  const seen = new Set<number>();
  for (const { index, bits, operator, value, mask } of conditions) {
    const here = `${at}, argument ${index}`;
    // As Firecracker's compiler, so that a profile is good for both.
    if (seen.has(index)) throw invalid(`${here}: two conditions on one argument`);
    seen.add(index);
    const max = allBits(bits);
    if (value > max || mask > max) throw invalid(`${here}: a dword has 32 bits`);
    const never = `${here}: no value is ${operator} ${value}`;
    const always = `${here}: every value is ${operator} ${value}`;
    if (operator === 'lt' && value === 0n) throw invalid(never);
    if (operator === 'gt' && value === max) throw invalid(never);
    if (operator === 'masked_eq' && (value & ~mask) !== 0n)
      throw invalid(`${here}: val has bits that masked_eq takes away, so it never holds`);
    if (operator === 'ge' && value === 0n) throw invalid(always);
    if (operator === 'le' && value === max) throw invalid(always);
    if (operator === 'masked_eq' && mask === 0n)
      throw invalid(`${here}: masked_eq 0 looks at no bit`);
  }
}

/** Whether every call that `rule` means is one that `other` means, as far as can be seen from their text. */
function covers(other: Rule, rule: Rule): boolean {
  return other.conditions.every((condition) =>
    rule.conditions.some((each) => sameCondition(each, condition)),
  );
}

function sameCondition(a: Condition, b: Condition): boolean {
  return (
    a.index === b.index &&
    a.bits === b.bits &&
    a.operator === b.operator &&
    a.value === b.value &&
    a.mask === b.mask
  );
}

function sameAction(a: Action, b: Action): boolean {
  return actionText(a) === actionText(b);
}
