/** The list of sandboxes in `neurovisor top`, with the columns that fit. Pure. */
import { stripVTControlCharacters } from 'node:util';
import type { BudgetState } from '../../base/request/model-limits.ts';
import { MIB } from '../../base/units.ts';
import { coarse } from '../output/table.ts';
import type { Pressure, SandboxRow } from './frame.ts';
import { type Inked, rateText, safeText } from './ink.ts';

interface Column {
  readonly head: string;
  /** Characters; negative: right-aligned. */
  readonly width: number;
  /** Terminal widths that show it: from `from` up to, but not including, `to`. */
  readonly from: number;
  readonly to?: number;
  cell(row: SandboxRow, ink: Inked): string;
}

const MEMORY_CELLS = 8;
const MIB_PER_GIB = 1024;
/** Prefix of an ID, long enough for any command. */
export const SHORT_ID = 10;
const WIDE = 100;

const ID: Column = { head: 'ID', width: 20, from: WIDE, cell: ({ id }) => id };

const COLUMNS: readonly Column[] = [
  ID,
  { ...ID, width: SHORT_ID, from: 0, to: WIDE, cell: ({ id }) => id.slice(0, SHORT_ID) },
  { head: 'STATUS', width: 8, from: 0, cell: ({ status }, ink) => ink(STATUS_INK[status] ?? 'reset', status) },
  { head: 'VM', width: 8, from: 100, cell: ({ phase }) => phase ?? '–' },
  { head: 'FROM', width: 8, from: 142, cell: ({ origin }) => origin },
  { head: 'CPU', width: -3, from: 118, cell: ({ cpus }) => `${cpus}` },
  { head: 'MEMORY', width: 23, from: 0, cell: memoryCell },
  { head: 'MEMORY PRESSURE', width: 15, from: 0, cell: shortageCell },
  { head: 'REQ', width: -3, from: 113, cell: ({ modelRequests }) => `${modelRequests}` },
  { head: 'TOKENS', width: -7, from: 0, cell: ({ tokens }) => countText(tokens) },
  { head: 'TOK/S', width: -5, from: 106, cell: ({ tokensPerSecond: rate }) => rateText(rate) },
  { head: 'BUDGET LEFT', width: 12, from: 130, cell: budgetCell },
  { head: 'AGE', width: -6, from: 0, cell: ({ ageMs }) => coarse(ageMs) },
];

/** @returns the header and a line for each row */
export function listLines(rows: readonly SandboxRow[], columns: number, ink: Inked): readonly string[] {
  const shown = COLUMNS.filter(({ from, to = Infinity }) => from <= columns && columns < to);
  const head = shown.map((column) => aligned(column.head, column.width));
  return [
    ink('inverse', head.join('  ')),
    ...rows.map((row) => {
      const cells = shown.map((column) => aligned(column.cell(row, ink), column.width));
      return cells.join('  ').trimEnd();
    }),
  ];
}

function aligned(text: string, width: number): string {
  const length = stripVTControlCharacters(text).length;
  const gap = ' '.repeat(Math.max(0, Math.abs(width) - length));
  return width < 0 ? gap + text : text + gap;
}

const STATUS_INK: Readonly<Record<string, Parameters<Inked>[0]>> = {
  running: 'green',
  paused: 'blue',
  ended: 'dim',
  ending: 'dim',
  starting: 'yellow',
  resuming: 'yellow',
  saving: 'yellow',
};

const MARKS: Readonly<Record<Pressure, string>> = { none: '', high: '!', full: '!!' };
const MARK_INK = { none: 'reset', high: 'yellow', full: 'red' } as const;

function memoryCell({ memoryBytes, memoryMib, pressure }: SandboxRow, ink: Inked): string {
  const limit = memoryMib;
  if (memoryBytes === null) return `${' '.repeat(MEMORY_CELLS + 2)} ${amountText(null, limit)}`;
  const ratio = Math.min(1, memoryBytes / (limit * MIB));
  const full = Math.round(ratio * MEMORY_CELLS);
  const bar = '█'.repeat(full) + '░'.repeat(MEMORY_CELLS - full);
  const mark = MARKS[pressure].padEnd(2);
  return `${ink(MARK_INK[pressure], bar + mark)} ${amountText(memoryBytes / MIB, limit)}`;
}

/** `480/512 MiB`, `1.2/16 GiB`. */
function amountText(mib: number | null, limitMib: number): string {
  const [unit, size] = limitMib >= 10 * MIB_PER_GIB ? ['GiB', MIB_PER_GIB] : ['MiB', 1];
  const number = (value: number): string => (value / size).toFixed(size > 1 && value < 10 * size ? 1 : 0);
  return `${mib === null ? '–' : number(mib)}/${number(limitMib)} ${unit}`;
}

/** Recent memory pressure or kill, as the guest or the host reported it. */
function shortageCell({ shortage }: SandboxRow, ink: Inked): string {
  switch (shortage?.type) {
    case 'pressure':
      return ink('yellow', `some ${percent(shortage.some)} full ${percent(shortage.full)}`);
    case 'near_oom':
      return ink('red', 'near OOM');
    case 'oom':
      return ink('red', `killed ${safeText(shortage.victim)}`.slice(0, 15));
    case undefined:
      return '';
  }
}

function budgetCell({ modelBudget }: SandboxRow, ink: Inked): string {
  return leftText(modelBudget, ink);
}

/** Of 1. */
const part = ({ left, limit }: BudgetState): number => left / limit;
/** The smallest part that is left of a limit. */
export const leastPart = (states: readonly BudgetState[]): number => Math.min(1, ...states.map(part));

/** What is left of the limit of which the smallest part is left. */
export function leftText(states: readonly BudgetState[], ink: Inked): string {
  const [least] = states.toSorted((a, b) => part(a) - part(b));
  if (least === undefined) return '';
  const { kind, left } = least;
  const text =
    kind === 'costNanoDollars'
      ? `$${(Math.floor(left / 1e7) / 100).toFixed(2)}`
      : `${countText(left)} ${BUDGET_WORDS[kind]}`;
  return ink(left === 0 ? 'red' : part(least) < LOW_PART ? 'yellow' : 'reset', text);
}

const LOW_PART = 0.2;
const BUDGET_WORDS = { inputTokens: 'in', outputTokens: 'out', requests: 'req' } as const;

/** At most two digits. */
const percent = (value: number): number => Math.min(99, Math.round(value));

function countText(count: number): string {
  if (count < 1e6) return `${count}`;
  return count < 1e9 ? `${(count / 1e6).toFixed(1)}M` : `${(count / 1e9).toFixed(1)}G`;
}
