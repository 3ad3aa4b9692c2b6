/** A frame of `neurovisor top` as lines of text, for a terminal of any size. Pure. */
import { stripVTControlCharacters, styleText } from 'node:util';
import { bytes, coarse, duration } from '../table.ts';
import type { Latency, Pressure, SandboxRow, TopFrame } from './frame.ts';

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
  readonly colour: boolean;
  /** What went wrong, if the frame is an old one. */
  readonly problem: string | null;
}

const SPARKS = ' ▁▂▃▄▅▆▇█';
const EVENTS_MAX = 5;
/** With fewer rows only the list is left. */
const ROWS_FOR_EVENTS = 22;
const ROWS_FOR_LATENCIES = 16;
const MEMORY_CELLS = 10;
/** Buckets of the longest histogram, so that they stand in columns. */
const BARS_MIN = 18;
const BYTES_PER_MIB = 1024 * 1024;

type Ink = Parameters<typeof styleText>[0];

/** Exactly `size.rows` lines, none wider than `size.columns`. */
export function draw(frame: TopFrame, size: Size, view: View): readonly string[] {
  const ink = (style: Ink, text: string): string =>
    view.colour ? styleText(style, text, { validateStream: false }) : text;
  const head = headOf(frame, ink, view);
  const latencies =
    size.rows >= ROWS_FOR_LATENCIES
      ? ['', ...frame.latencies.map((one) => latencyLine(one, ink))]
      : [];
  const events = size.rows >= ROWS_FOR_EVENTS ? eventLines(frame, ink) : [];
  const foot = ink('dim', footOf(frame, view));
  const room = size.rows - head.length - latencies.length - events.length - 3;
  const list = listOf(frame, Math.max(1, room), view, ink);
  const above = [...head, ...latencies, '', ...list];
  const gap = Math.max(0, size.rows - above.length - events.length - 1);
  const lines = [...above, ...Array.from({ length: gap }, () => ''), ...events, foot];
  return lines.slice(0, size.rows).map((line) => cut(line, size.columns));
}

/** All of it, as long as it is: for a file or a pipe. */
export function drawWhole(frame: TopFrame, view: View): string {
  const rows = frame.sandboxes.length + frame.latencies.length + EVENTS_MAX + 20;
  const lines = draw(frame, { columns: 120, rows }, view).slice(0, -1);
  return `${lines
    .join('\n')
    .replaceAll(/[ \t]+$/gm, '')
    .replaceAll(/\n{3,}/g, '\n\n')
    .trimEnd()}\n`;
}

type Inked = (style: Ink, text: string) => string;

function headOf(frame: TopFrame, ink: Inked, view: View): readonly string[] {
  const { daemon, counts, queue, pool, memory, models } = frame;
  const clock = new Date(frame.atMs).toTimeString().slice(0, 8);
  const up = coarse(frame.atMs - daemon.startedAtMs);
  const states = Object.entries(counts).map(([status, count]) => `${count} ${status}`);
  const asked = pool.hits + pool.misses;
  const hits = asked === 0 ? '' : `, ${((100 * pool.hits) / asked).toFixed(0)} % hits`;
  const title = view.problem === null ? `up ${up} · ${plain(daemon.vmm)}` : plain(view.problem);
  return [
    `${ink('bold', 'neurovisor top')}  ${clock}  ${view.problem === null ? title : ink('red', title)}`,
    `sandboxes  ${states.length === 0 ? 'none' : states.join(', ')} · ${queue.waiting} wait, ` +
      `${queue.starting} start · pool ${pool.ready} of ${pool.target} ready${hits}`,
    `memory     ${bytes(memory.vmmBytes)} in VMs, ${bytes(memory.availableBytes)} free` +
      pressureText(memory.pressure, ink),
    `models     ${models.inFlight} in flight · ${rateText(models.tokensPerSecond)} tokens/s · ` +
      `${rateText(models.requestsPerSecond)} requests/s · ${bytes(models.tokens).replace(/ B$/, '')} tokens · channel ` +
      `${frame.channelBytesPerSecond === null ? '–' : bytes(frame.channelBytesPerSecond)}/s · ${plain(daemon.upstream)}`,
  ];
}

/** Where tasks of the host wait for memory, what runs in it does too. */
function pressureText(pressure: TopFrame['memory']['pressure'], ink: Inked): string {
  if (pressure === null) return '';
  const percent = (ratio: number): string => `${(100 * ratio).toFixed(1)} %`;
  const text = ` · pressure ${percent(pressure.some)} some, ${percent(pressure.full)} full`;
  if (pressure.full >= 0.05) return ink('red', `${text} !!`);
  return pressure.some >= 0.1 ? ink('yellow', `${text} !`) : text;
}

function latencyLine(latency: Latency, ink: Inked): string {
  const { name, count, p50, p95, windowMs } = latency;
  const when = windowMs === null ? 'since the start' : `last ${coarse(windowMs)}`;
  const times = count === 0 ? 'nothing yet' : `p50 ${seconds(p50)}  p95 ${seconds(p95)}`;
  const shown = ink('cyan', bars(latency).padEnd(BARS_MIN + 19));
  return `${name.padEnd(15)}${shown}  ${times.padEnd(26)}${ink('dim', count === 0 ? '' : `${count} ${when}`)}`;
}

/** One bar for each bucket; the highest is the fullest. */
export function bars({ buckets }: Pick<Latency, 'buckets'>): string {
  const max = Math.max(0, ...buckets.map(({ count }) => count));
  const bar = (count: number): string => {
    // What is not nothing is to be seen.
    const level = count === 0 ? 0 : Math.max(1, Math.round((count / max) * (SPARKS.length - 1)));
    return SPARKS[level] ?? ' ';
  };
  if (buckets.length === 0) return '';
  const bounds = buckets.flatMap(({ le }) => (le === null ? [] : [le]));
  const [first = 0, last = 0] = [bounds[0], bounds.at(-1)];
  const line = buckets.map(({ count }) => bar(count)).join('');
  return `${seconds(first).padStart(7)} │${line.padEnd(BARS_MIN)}│ ${seconds(last).padEnd(8)}`;
}

function listOf(frame: TopFrame, room: number, view: View, ink: Inked): readonly string[] {
  const sorted = sortRows(frame.sandboxes, view);
  const shown = sorted.slice(view.offset, view.offset + room);
  const head = `${'ID'.padEnd(20)}  ${'STATUS'.padEnd(9)}${'VM'.padEnd(9)}${'FROM'.padEnd(9)}CPU  ${'MEMORY'.padEnd(33)}${'REQ'.padStart(4)}${'TOKENS'.padStart(9)}${'TOK/S'.padStart(8)}${'AGE'.padStart(8)}`;
  return [ink('inverse', head), ...shown.map((row) => rowLine(row, ink))];
}

function rowLine(row: SandboxRow, ink: Inked): string {
  const { id, status, phase, origin, cpus, modelRequests, tokens, tokensPerSecond, ageMs } = row;
  const state = ink(STATUS_INK[status] ?? 'reset', status.padEnd(9));
  return (
    `${id.padEnd(20)}  ${state}${(phase ?? '–').padEnd(9)}${origin.padEnd(9)}${`${cpus}`.padStart(3)}  ` +
    `${memoryCell(row, ink)}${`${modelRequests}`.padStart(4)}${`${tokens}`.padStart(9)}` +
    `${rateText(tokensPerSecond).padStart(8)}${coarse(ageMs).padStart(8)}`
  );
}

const STATUS_INK: Readonly<Record<string, Ink>> = {
  ...{ running: 'green', paused: 'blue', ended: 'dim', ending: 'dim' },
  ...{ starting: 'yellow', resuming: 'yellow', saving: 'yellow' },
};

const MARKS: Readonly<Record<Pressure, string>> = { none: '  ', high: '! ', full: '!!' };
const MARK_INK: Readonly<Record<Pressure, Ink>> = { none: 'reset', high: 'yellow', full: 'red' };

function memoryCell({ memoryBytes, memoryMib, pressure }: SandboxRow, ink: Inked): string {
  const all = `${memoryMib} MiB`;
  if (memoryBytes === null) return `${'–'.padStart(MEMORY_CELLS + 3)} of ${all}`.padEnd(33);
  const ratio = Math.min(1, memoryBytes / (memoryMib * BYTES_PER_MIB));
  const full = Math.round(ratio * MEMORY_CELLS);
  const bar = '█'.repeat(full) + '░'.repeat(MEMORY_CELLS - full);
  const text = `${bytes(memoryBytes)} of ${bytes(memoryMib * BYTES_PER_MIB)}`;
  return `${ink(MARK_INK[pressure], `${bar}${MARKS[pressure]}`)} ${text.padEnd(20)}`;
}

export function sortRows(rows: readonly SandboxRow[], view: Pick<View, 'sort' | 'reverse'>) {
  const by: Readonly<Record<Sort, (a: SandboxRow, b: SandboxRow) => number>> = {
    memory: (a, b) => (b.memoryBytes ?? -1) - (a.memoryBytes ?? -1),
    tokens: (a, b) => (b.tokensPerSecond ?? 0) - (a.tokensPerSecond ?? 0) || b.tokens - a.tokens,
    age: (a, b) => b.ageMs - a.ageMs,
    id: () => 0,
  };
  // What is equal stays where it was from one frame to the next.
  const sorted = rows.toSorted((a, b) => by[view.sort](a, b) || a.id.localeCompare(b.id));
  return view.reverse ? sorted.reverse() : sorted;
}

function eventLines({ events }: TopFrame, ink: Inked): readonly string[] {
  const last = events.slice(-EVENTS_MAX).map(({ atMs, sandbox, text }) => {
    const clock = new Date(atMs).toTimeString().slice(0, 8);
    return `${ink('dim', clock)}  ${sandbox}  ${plain(text)}`;
  });
  return last.length === 0 ? [] : ['', ink('bold', 'Events'), ...last];
}

function footOf({ sandboxes }: TopFrame, { sort, reverse, offset }: View): string {
  const order = `${sort}${reverse ? ', reversed' : ''}`;
  const from = sandboxes.length === 0 ? 0 : Math.min(offset + 1, sandboxes.length);
  return `q quit · s sort (${order}) · r reverse · ↑↓ scroll (from ${from} of ${sandboxes.length})`;
}

function rateText(rate: number | null): string {
  if (rate === null) return '–';
  return rate < 10 ? rate.toFixed(1) : rate.toFixed(0);
}

function seconds(value: number | null): string {
  return value === null ? '–' : duration(value * 1000);
}

/** Words of a daemon: nothing that could steer the terminal. */
function plain(text: string): string {
  return stripVTControlCharacters(text).replaceAll(/\p{Cc}/gu, ' ');
}

/** To so many columns; colours end where it is cut. */
export function cut(line: string, columns: number): string {
  if (stripVTControlCharacters(line).length <= columns) return line;
  let [width, out] = [0, ''];
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the escape sequences of our own colours
  for (const [part = ''] of line.matchAll(/\x1b\[[0-9;]*m|./gsu)) {
    const isColour = part.startsWith('\x1b');
    if (!isColour && width >= columns) continue;
    width += isColour ? 0 : 1;
    out += part;
  }
  return out;
}
