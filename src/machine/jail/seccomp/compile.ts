/**
 * Compiles seccomp profiles to classic BPF. Pure.
 *
 *     other processor? ── kill ·  number ── binary search ──┬─► return            most calls
 *                                 (x32: kill)               └─► its rules ── …──► return
 *
 * Consecutive numbers with equal results are one step of the search. When the filter is installed, the kernel caches the
 * calls that are allowed regardless of arguments and runs no program for them (kernel/seccomp.c,
 * `seccomp_cache_prepare`).
 */

import { JailError } from '../errors.ts';
import { Assembler, argumentOffset, INSTRUCTION_BYTES, INSTRUCTIONS_MAX, type Label, SECCOMP_DATA } from './cbpf.ts';
import { type Action, type Condition, invalid, type Rule, type ThreadFilter } from './profile.ts';
import { checkRules } from './profile-check.ts';
import { type Architecture, AUDIT_ARCH, syscallNumber } from './syscalls.ts';

export interface CompiledFilter {
  /** `struct sock_filter[]` (linux/filter.h): 8 bytes per instruction, little-endian. */
  readonly program: Uint8Array<ArrayBuffer>;
  /** At most `INSTRUCTIONS_MAX`. */
  readonly instructions: number;
}

/** __X32_SYSCALL_BIT (asm/unistd.h): the same calls by other numbers, which no rule covers. */
export const X32_BIT = 0x4000_0000;

/** SECCOMP_RET_… (linux/seccomp.h); the low 16 bits are data. */
const RETURN = {
  kill_thread: 0,
  trap: 0x0003_0000,
  errno: 0x0005_0000,
  trace: 0x7ff0_0000,
  log: 0x7ffc_0000,
  allow: 0x7fff_0000,
  kill_process: 0x8000_0000,
} as const;
const DATA_MASK = 0xffff;
const HIGH = 32n;
const LOW_MASK = 0xffff_ffffn;

export function returnWord(action: Action): number {
  if (typeof action === 'string') return RETURN[action];
  return 'errno' in action ? RETURN.errno | action.errno : RETURN.trace | action.trace;
}

/** @returns undefined for a value that no action of a profile has */
export function actionOfReturn(word: number): Action | undefined {
  const [base, data] = [(word & ~DATA_MASK) >>> 0, word & DATA_MASK];
  if (base === RETURN.errno) return { errno: data };
  if (base === RETURN.trace) return { trace: data };
  const names = ['kill_thread', 'trap', 'log', 'allow', 'kill_process'] as const;
  return names.find((name) => RETURN[name] === base);
}

/** One rule of a call, with its return value. */
interface Way {
  readonly conditions: readonly Condition[];
  readonly word: number;
}

/** The result of a call: the first `Way` whose conditions hold, else `otherwise`. */
interface Ending {
  readonly ways: readonly Way[];
  readonly otherwise: number;
  /** Equal for equal endings. */
  readonly key: string;
}

/** The calls from a number to the next segment. */
interface Segment {
  readonly from: number;
  readonly ending: Ending;
}

/** @throws JailError `profile_invalid` that names the rule, `profile_too_large` */
export function compileProfile(filter: ThreadFilter, arch: Architecture): CompiledFilter {
  checkRules(filter);
  const program = new Writer().write(segmentsOf(filter, arch), arch);
  const instructions = program.length / INSTRUCTION_BYTES;
  if (instructions > INSTRUCTIONS_MAX) {
    throw new JailError(
      'profile_too_large',
      `seccomp profile: thread "${filter.name}" needs ${instructions} instructions, but the kernel accepts at most ${INSTRUCTIONS_MAX}`,
      { remedy: 'Check fewer arguments: a rule without any costs at most two instructions.' },
    );
  }
  return { program, instructions };
}

/** Covers all numbers, in order: adjacent segments have different results. */
function segmentsOf(filter: ThreadFilter, arch: Architecture): Segment[] {
  const otherwise = returnWord(filter.defaultAction);
  const out: Segment[] = [{ from: 0, ending: ending([], otherwise) }];
  const add = (from: number, to: Ending): void => {
    const last = out.at(-1);
    if (last?.from === from) out.pop();
    if (out.at(-1)?.ending.key !== to.key) out.push({ from, ending: to });
  };
  for (const [number, rules] of rulesByNumber(filter, arch)) {
    const ways: Way[] = rules.map(({ conditions, action }) => ({
      conditions,
      word: returnWord(action ?? filter.filterAction),
    }));
    add(number, ending(ways, otherwise));
    add(number + 1, ending([], otherwise));
  }
  if (arch === 'x86_64') add(X32_BIT, ending([], RETURN.kill_process));
  return out;
}

function rulesByNumber(filter: ThreadFilter, arch: Architecture): [number, Rule[]][] {
  const out = new Map<number, Rule[]>();
  for (const rule of filter.rules) {
    const number = syscallNumber(rule.syscall, arch);
    if (number === undefined) throw invalid(`thread "${filter.name}": no system call "${rule.syscall}" on ${arch}`);
    out.set(number, [...(out.get(number) ?? []), rule]);
  }
  return [...out].sort(([a], [b]) => a - b);
}

/** Drops rules without effect: rules after one without conditions, or with the default result at the end. */
function ending(rules: readonly Way[], byDefault: number): Ending {
  const last = rules.findIndex(({ conditions }) => conditions.length === 0);
  const otherwise = rules[last]?.word ?? byDefault;
  const ways = last < 0 ? [...rules] : rules.slice(0, last);
  while (ways.at(-1)?.word === otherwise) ways.pop();
  const key = JSON.stringify([ways, otherwise], (_, value: unknown) =>
    typeof value === 'bigint' ? `${value}` : value,
  );
  return { ways, otherwise, key };
}

class Writer {
  readonly #code = new Assembler();
  readonly #returns = new Map<number, Label>();
  readonly #endings = new Map<string, { readonly label: Label; readonly ending: Ending }>();

  write(segments: readonly Segment[], arch: Architecture): Uint8Array<ArrayBuffer> {
    const other = this.#return(RETURN.kill_process);
    const root = this.#targetOf(segments);
    this.#code.load(SECCOMP_DATA.arch).branch('jumpIfEqual', AUDIT_ARCH[arch], root, other);
    this.#search(segments, root);
    for (const { label, ending } of this.#endings.values()) {
      this.#code.place(label);
      this.#ways(ending);
    }
    for (const [word, label] of this.#returns) this.#code.place(label).return(word);
    return this.#code.assemble();
  }

  #search(segments: readonly Segment[], at: Label): void {
    const middle = segments[segments.length >> 1];
    if (middle === undefined || segments.length === 1) return;
    const [below, above] = [segments.slice(0, segments.length >> 1), segments.slice(segments.length >> 1)];
    const [left, right] = [this.#targetOf(below), this.#targetOf(above)];
    this.#code.place(at).load(SECCOMP_DATA.number);
    this.#code.branch('jumpIfGreaterOrEqual', middle.from, right, left);
    this.#search(below, left);
    this.#search(above, right);
  }

  /** The start of a search among these segments, or the result of a single one. */
  #targetOf(segments: readonly Segment[]): Label {
    const [only, ...more] = segments;
    if (only === undefined || more.length > 0) return { name: `from ${only?.from}` };
    const { ending } = only;
    if (ending.ways.length === 0) return this.#return(ending.otherwise);
    const known = this.#endings.get(ending.key);
    if (known !== undefined) return known.label;
    const label = { name: `rules of ${only.from}` };
    this.#endings.set(ending.key, { label, ending });
    return label;
  }

  #ways({ ways, otherwise }: Ending): void {
    for (const [index, { conditions, word }] of ways.entries()) {
      const isLast = index === ways.length - 1;
      const next = isLast ? this.#return(otherwise) : { name: `rule ${index + 1}` };
      for (const [at, condition] of conditions.entries()) {
        const isDecided = at === conditions.length - 1;
        const then = isDecided ? this.#return(word) : { name: `rule ${index}.${at + 1}` };
        this.#condition(condition, then, next);
        if (!isDecided) this.#code.place(then);
      }
      if (!isLast) this.#code.place(next);
    }
  }

  /** `ne`, `lt` and `le` are the inverse of `eq`, `ge` and `gt`. */
  #condition(condition: Condition, ifTrue: Label, ifFalse: Label): void {
    const { operator } = condition;
    const isInverse = operator === 'ne' || operator === 'lt' || operator === 'le';
    const [yes, no] = isInverse ? [ifFalse, ifTrue] : [ifTrue, ifFalse];
    if (operator === 'eq' || operator === 'ne' || operator === 'masked_eq') this.#equal(condition, yes, no);
    else if (operator === 'gt' || operator === 'le') this.#greater('jumpIfGreater', condition, yes, no);
    else this.#greater('jumpIfGreaterOrEqual', condition, yes, no);
  }

  #equal({ index, value, mask }: Condition, ifTrue: Label, ifFalse: Label): void {
    const halves = (['high', 'low'] as const)
      .map((half) => ({ half, bits: halfOf(mask, half), wanted: halfOf(value, half) }))
      .filter(({ bits }) => bits !== 0);
    for (const [at, { half, bits, wanted }] of halves.entries()) {
      const isLast = at === halves.length - 1;
      const then = isLast ? ifTrue : { name: `low half of ${index}` };
      this.#code.load(argumentOffset(index, half));
      if (bits !== Number(LOW_MASK)) this.#code.and(bits);
      this.#code.branch('jumpIfEqual', wanted, then, ifFalse);
      if (!isLast) this.#code.place(then);
    }
  }

  #greater(
    comparison: 'jumpIfGreater' | 'jumpIfGreaterOrEqual',
    { index, bits, value }: Condition,
    ifTrue: Label,
    ifFalse: Label,
  ): void {
    const [high, low] = [halfOf(value, 'high'), halfOf(value, 'low')];
    if (bits === 64) {
      const [atMost, equal] = [{ name: `at most ${high}` }, { name: `low half of ${index}` }];
      this.#code.load(argumentOffset(index, 'high'));
      this.#code.branch('jumpIfGreater', high, ifTrue, atMost).place(atMost);
      this.#code.branch('jumpIfEqual', high, equal, ifFalse).place(equal);
    }
    this.#code.load(argumentOffset(index, 'low')).branch(comparison, low, ifTrue, ifFalse);
  }

  /** Shares one return per value, at the end. */
  #return(word: number): Label {
    const label = this.#returns.get(word) ?? { name: `return ${word.toString(16)}` };
    this.#returns.set(word, label);
    return label;
  }
}

function halfOf(value: bigint, half: 'low' | 'high'): number {
  return Number((half === 'high' ? value >> HIGH : value) & LOW_MASK);
}
