/** Finds contradictions in a profile: mistakes that would make a filter differ from its text. Pure. */
import { type Action, actionText, allBits, type Condition, invalid, type Rule, type ThreadFilter } from './profile.ts';

/** @throws JailError `profile_invalid` */
export function checkRules(filter: ThreadFilter): void {
  const where = `thread "${filter.name}"`;
  if (sameAction(filter.defaultAction, filter.filterAction)) {
    const text = actionText(filter.defaultAction);
    throw invalid(`${where}: default_action and filter_action are both ${text}, so no entry has an effect`);
  }
  const before = new Map<string, Rule[]>();
  for (const [index, rule] of filter.rules.entries()) {
    const at = `${where}: filter[${index}] (${rule.syscall})`;
    checkConditions(rule.conditions, at);
    const earlier = before.get(rule.syscall) ?? [];
    for (const other of earlier) {
      const isSame = sameAction(rule.action ?? filter.filterAction, other.action ?? filter.filterAction);
      if (!isSame && covers(other, rule)) throw invalid(`${at}: an earlier entry decides the same calls differently`);
    }
    before.set(rule.syscall, [...earlier, rule]);
  }
}

/** Redundant entries, which another entry of the same thread covers, as text. */
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
    return by < 0 ? [] : [`filter[${index}] (${rule.syscall}): already covered by filter[${by}]`];
  });
}

function checkConditions(conditions: readonly Condition[], at: string): void {
  const seen = new Set<number>();
  for (const { index, bits, operator, value, mask } of conditions) {
    const here = `${at}, argument ${index}`;
    // As in Firecracker's compiler, so that a profile works for both.
    if (seen.has(index)) throw invalid(`${here}: two conditions on one argument`);
    seen.add(index);
    const max = allBits(bits);
    if (value > max || mask > max) throw invalid(`${here}: a dword has 32 bits`);
    const never = `${here}: no value is ${operator} ${value}`;
    const always = `${here}: every value is ${operator} ${value}`;
    if (operator === 'lt' && value === 0n) throw invalid(never);
    if (operator === 'gt' && value === max) throw invalid(never);
    if (operator === 'masked_eq' && (value & ~mask) !== 0n)
      throw invalid(`${here}: val has bits outside masked_eq, so it never matches`);
    if (operator === 'ge' && value === 0n) throw invalid(always);
    if (operator === 'le' && value === max) throw invalid(always);
    if (operator === 'masked_eq' && mask === 0n) throw invalid(`${here}: masked_eq 0 checks no bit`);
  }
}

/** Whether `other` covers every call of `rule`, as far as their text shows. */
function covers(other: Rule, rule: Rule): boolean {
  return other.conditions.every((condition) => rule.conditions.some((each) => sameCondition(each, condition)));
}

function sameCondition(a: Condition, b: Condition): boolean {
  return (
    a.index === b.index && a.bits === b.bits && a.operator === b.operator && a.value === b.value && a.mask === b.mask
  );
}

function sameAction(a: Action, b: Action): boolean {
  return actionText(a) === actionText(b);
}
