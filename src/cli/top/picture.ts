/** A frame of `neurovisor top` as lines of text, for a terminal of any size. Pure. */
import { bytes, coarse, duration } from '../output/table.ts';
import { leastPart, leftText, listLines, SHORT_ID } from './columns.ts';
import type { Latency, SandboxRow, TopEvent, TopFrame } from './frame.ts';
import { cut, type Ink, type Inked, inked, rateText, safeText } from './ink.ts';

export interface Size {
  readonly columns: number;
  readonly rows: number;
}

export const SORTS = ['memory', 'tokens', 'age', 'id'] as const;
export type Sort = (typeof SORTS)[number];

export interface View {
  readonly sort: Sort;
  readonly reverse: boolean;
  /** First row of the list that is shown. */
  readonly offset: number;
  readonly color: boolean;
  /** Why the frame is out of date; null: it is current. */
  readonly problem: string | null;
}

const SPARKS = ' ▁▂▃▄▅▆▇█';
/** With fewer rows, events are hidden. */
const ROWS_FOR_EVENTS = 20;
/** Rows reserved for events, by height of the terminal. */
const EVENTS_MIN = { short: 3, tall: 6, tallRows: 30 } as const;
/** With fewer rows, only the list is shown. */
const ROWS_FOR_LATENCIES = 16;
/** Minimum buckets of a histogram, so that histograms align. */
const BARS_MIN = 18;
const NAME_CHARACTERS = 15;
/** Shared budgets that are shown. */
const BUDGETS_MAX = 4;

/** Exactly `size.rows` lines, none wider than `size.columns`. */
export function draw(frame: TopFrame, size: Size, view: View): readonly string[] {
  const ink = inked(view.color);
  const head = headOf(frame, ink, view);
  const latencies = size.rows >= ROWS_FOR_LATENCIES ? ['', ...latencyLines(frame, size, ink)] : [];
  const foot = ink('dim', footOf(frame, view));
  // The line above the list, its head, and the foot.
  const room = Math.max(1, size.rows - head.length - latencies.length - 3);
  const wanted = size.rows >= ROWS_FOR_EVENTS ? frame.events.length : 0;
  const reserved = Math.min(wanted, EVENTS_MIN[size.rows >= EVENTS_MIN.tallRows ? 'tall' : 'short']);
  const rows = sortRows(frame.sandboxes, view).slice(view.offset);
  const shown = rows.slice(0, Math.max(1, room - (reserved === 0 ? 0 : reserved + 2)));
  const free = room - shown.length - 2;
  const events = eventLines(frame.events.slice(-Math.max(0, Math.min(wanted, free))), size, ink);
  const above = [...head, ...latencies, '', ...listLines(shown, size.columns, ink)];
  const gap = Math.max(0, size.rows - above.length - events.length - 1);
  const lines = [...above, ...Array.from({ length: gap }, () => ''), ...events, foot];
  return lines.slice(0, size.rows).map((line) => cut(line, size.columns));
}

/** Returns the whole frame, for a file or a pipe. */
export function drawWhole(frame: TopFrame, view: View): string {
  const { sandboxes, latencies, events } = frame;
  const rows = sandboxes.length + latencies.length + events.length + EVENTS_MIN.tallRows;
  const lines = draw(frame, { columns: 142, rows }, view).slice(0, -1);
  return `${lines
    .join('\n')
    .replaceAll(/[ \t]+$/gm, '')
    .replaceAll(/\n{3,}/g, '\n\n')
    .trimEnd()}\n`;
}

function headOf(frame: TopFrame, ink: Inked, view: View): readonly string[] {
  const { daemon, counts, queue, pool, memory, models } = frame;
  const clock = new Date(frame.atMs).toTimeString().slice(0, 8);
  const up = coarse(frame.atMs - daemon.startedAtMs);
  const states = Object.entries(counts).map(([status, count]) => `${count} ${status}`);
  const asked = pool.hits + pool.misses;
  const hits = asked === 0 ? '' : `, ${((100 * pool.hits) / asked).toFixed(0)} % hits`;
  const title = view.problem === null ? `up ${up} · ${safeText(daemon.vmm)}` : safeText(view.problem);
  return [
    `${ink('bold', 'neurovisor top')}  ${clock}  ${view.problem === null ? title : ink('red', title)}`,
    `sandboxes  ${states.length === 0 ? 'none' : states.join(', ')} · ${queue.waiting} waiting, ` +
      `${queue.starting} starting · pool ${pool.ready} of ${pool.target} ready${hits}`,
    `memory     ${bytes(memory.vmmBytes)} in VMs, ${bytes(memory.sharedBytes)} shared by them, ` +
      `${bytes(memory.availableBytes)} free${pressureText(memory.pressure, ink)}`,
    `models     ${models.inFlight} in flight · ${rateText(models.tokensPerSecond)} tokens/s · ` +
      `${rateText(models.requestsPerSecond)} requests/s · ${bytes(models.tokens).replace(/ B$/, '')} tokens · channel ` +
      `${frame.channelBytesPerSecond === null ? '–' : bytes(frame.channelBytesPerSecond)}/s · ${safeText(daemon.upstream)}`,
    ...queueLines(models.queue, ink),
    ...budgetLines(models.budgets, ink),
  ];
}

/** Those of which least is left. */
function budgetLines(budgets: TopFrame['models']['budgets'], ink: Inked): readonly string[] {
  if (budgets.length === 0) return [];
  const sorted = budgets.toSorted((a, b) => leastPart(a.states) - leastPart(b.states));
  const shown = sorted
    .slice(0, BUDGETS_MAX)
    .map(({ tenant, states }) => `${safeText(tenant ?? 'host')} ${leftText(states, ink)} left`);
  const more = budgets.length - shown.length;
  return [`budgets    ${shown.join(' · ')}${more === 0 ? '' : ` · ${more} more`}`];
}

/** Requests in front of model servers; no line where there is nothing to tell. */
function queueLines({ running, waiting, longestWaitMs }: TopFrame['models']['queue'], ink: Inked): readonly string[] {
  if (running + waiting === 0) return [];
  const wait = waiting === 0 ? '' : `, longest ${duration(longestWaitMs)}`;
  const text = `${waiting} waiting${wait}`;
  return [`turns      ${running} in flight · ${waiting === 0 ? text : ink('yellow', text)}`];
}

/** Memory pressure of the host, which slows down all guests. */
function pressureText(pressure: TopFrame['memory']['pressure'], ink: Inked): string {
  if (pressure === null) return '';
  const percent = (ratio: number): string => `${(100 * ratio).toFixed(1)} %`;
  const text = ` · pressure ${percent(pressure.some)} some, ${percent(pressure.full)} full`;
  if (pressure.full >= 0.05) return ink('red', `${text} !!`);
  return pressure.some >= 0.1 ? ink('yellow', `${text} !`) : text;
}

/** In a low terminal, histograms without a value are omitted. */
function latencyLines({ latencies }: TopFrame, { rows }: Size, ink: Inked): readonly string[] {
  const all = rows >= EVENTS_MIN.tallRows ? latencies : latencies.filter(({ count }) => count > 0);
  return (all.length === 0 ? latencies.slice(0, 1) : all).map((one) => latencyLine(one, ink));
}

function latencyLine(latency: Latency, ink: Inked): string {
  const { name, count, p50, p95, windowMs } = latency;
  if (count === 0) return `${name.padEnd(NAME_CHARACTERS)}${ink('dim', 'nothing yet')}`;
  const when = windowMs === null ? 'since the start' : `in ${coarse(windowMs)}`;
  const times = `p50 ${seconds(p50)}  p95 ${seconds(p95)}`;
  const shown = ink('cyan', sparkline(latency).padEnd(BARS_MIN + 19));
  return `${name.padEnd(NAME_CHARACTERS)}${shown}  ${times.padEnd(26)}${ink('dim', `${count} ${when}`)}`;
}

/** Draws one bar per bucket; the fullest is the highest. */
export function sparkline({ buckets }: Pick<Latency, 'buckets'>): string {
  const max = Math.max(0, ...buckets.map(({ count }) => count));
  const bar = (count: number): string => {
    // Any count is visible.
    const level = count === 0 ? 0 : Math.max(1, Math.round((count / max) * (SPARKS.length - 1)));
    return SPARKS[level] ?? ' ';
  };
  if (buckets.length === 0) return '';
  const bounds = buckets.flatMap(({ le }) => (le === null ? [] : [le]));
  const [first = 0, last = 0] = [bounds[0], bounds.at(-1)];
  const line = buckets.map(({ count }) => bar(count)).join('');
  return `${seconds(first).padStart(7)} │${line.padEnd(BARS_MIN)}│ ${seconds(last).padEnd(8)}`;
}

export function sortRows(rows: readonly SandboxRow[], view: Pick<View, 'sort' | 'reverse'>) {
  const by: Readonly<Record<Sort, (a: SandboxRow, b: SandboxRow) => number>> = {
    memory: (a, b) => (b.memoryBytes ?? -1) - (a.memoryBytes ?? -1),
    tokens: (a, b) => (b.tokensPerSecond ?? 0) - (a.tokensPerSecond ?? 0) || b.tokens - a.tokens,
    age: (a, b) => b.ageMs - a.ageMs,
    id: () => 0,
  };
  // Equal rows keep their order between frames.
  const sorted = rows.toSorted((a, b) => by[view.sort](a, b) || a.id.localeCompare(b.id));
  return view.reverse ? sorted.reverse() : sorted;
}

function eventLines(events: readonly TopEvent[], size: Size, ink: Inked): readonly string[] {
  const lines = events.map(({ atMs, sandbox, type, text }) => {
    const clock = new Date(atMs).toTimeString().slice(0, 8);
    const id = size.columns < 100 ? safeText(sandbox).slice(0, SHORT_ID) : safeText(sandbox);
    const shown = safeText(type === 'status' || type === 'end' ? text : `${type}: ${text}`);
    const style = EVENT_INK[type];
    return `${ink('dim', clock)}  ${id}  ${style === undefined ? shown : ink(style, shown)}`;
  });
  return lines.length === 0 ? [] : ['', ink('bold', 'Events'), ...lines];
}

const EVENT_INK: Readonly<Partial<Record<TopEvent['type'], Ink>>> = {
  dropped: 'dim',
  action: 'cyan',
  pressure: 'yellow',
  near_oom: 'red',
  oom: 'red',
};

function footOf({ sandboxes }: TopFrame, { sort, reverse, offset }: View): string {
  const order = `${sort}${reverse ? ', reversed' : ''}`;
  const from = sandboxes.length === 0 ? 0 : Math.min(offset + 1, sandboxes.length);
  return `q quit · s sort (${order}) · r reverse · ↑↓ scroll (from ${from} of ${sandboxes.length})`;
}

function seconds(value: number | null): string {
  return value === null ? '–' : duration(value * 1000);
}
