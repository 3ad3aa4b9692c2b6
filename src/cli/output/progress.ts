/**
 * Draws the progress of long work on stderr. On a terminal: one line per running step, redrawn in
 * place. Elsewhere (CI, a file): a line when a step starts and ends, and a sign of life in between.
 */
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { styleText } from 'node:util';
import { ignore } from '../../base/ignore.ts';
import type { ProgressEvent } from '../../base/progress.ts';
import { plain } from '../../base/text/plain.ts';
import type { ProgressView } from '../cli.ts';
import { duration } from './table.ts';

interface Step {
  title: string;
  /** Of the last time; undefined: never done here. */
  measuredMs: number | undefined;
  startedAt: number;
  fraction: number | undefined;
  detail: string;
  /** The earliest end that was shown. */
  endsAt: number;
}

const REDRAW_MS = 100;
const SIGN_OF_LIFE_MS = 15_000;
const BAR_CELLS = 20;
const DETAIL_COLUMNS_MIN = 10;
const DETAIL_COLUMNS_MAX = 60;
const FRACTION_FOR_PACE = 0.2;

/** How long steps took here, by their titles; milliseconds. */
export interface Measured {
  get(title: string): number | undefined;
  set(title: string, durationMs: number): void;
}

const NOT_MEASURED: Measured = { get: () => undefined, set: () => undefined };

const TITLES_MAX = 64;
const TITLE_CHARACTERS_MAX = 200;
const FILE_CHARACTERS_MAX = 64 * 1024;

export interface ProgressOptions {
  /** Milliseconds. */
  readonly now?: () => number;
  readonly measured?: Measured;
}

export function progressView(stream: NodeJS.WriteStream, options: ProgressOptions = {}): ProgressView {
  return stream.isTTY ? liveView(stream, options) : plainView(stream, options);
}

function liveView(stream: NodeJS.WriteStream, { now = clock, measured = NOT_MEASURED }: ProgressOptions): ProgressView {
  const steps = new Map<string, Step>();
  let live: LogUpdate | undefined;
  const draw = (): void => {
    const columns = stream.columns ?? 80;
    const lines = [...steps.values()].map((step) => stepLine(step, now(), columns));
    if (lines.length === 0) return;
    live ??= logUpdateOn(stream);
    live(lines.join('\n'));
  };
  const timer = setInterval(draw, REDRAW_MS);
  timer.unref();
  return {
    report: (event) => {
      apply(steps, event, { now: now(), measured }, (line) => {
        live?.clear();
        stream.write(`${line}\n`);
      });
      draw();
    },
    close: () => {
      clearInterval(timer);
      live?.clear();
      live?.done();
    },
  };
}

type LogUpdateModule = typeof import('log-update');
type LogUpdate = ReturnType<LogUpdateModule['createLogUpdate']>;

/** Loads the library at the first report: most commands report nothing, and start faster without it. */
function logUpdateOn(stream: NodeJS.WriteStream): LogUpdate {
  const { createLogUpdate } = createRequire(import.meta.url)('log-update') as LogUpdateModule;
  return createLogUpdate(stream, { showCursor: true });
}

/** Whole lines, for a stream that is no terminal or that others write to as well. */
export function plainView(
  stream: NodeJS.WritableStream,
  { now = clock, measured = NOT_MEASURED }: ProgressOptions = {},
): ProgressView {
  const steps = new Map<string, Step>();
  const print = (line: string): void => void stream.write(`${line}\n`);
  const timer = setInterval(() => {
    for (const step of steps.values()) print(`  … ${progressText(step, now())}`);
  }, SIGN_OF_LIFE_MS);
  timer.unref();
  return {
    report: (event) => {
      apply(steps, event, { now: now(), measured }, print);
      if (event.kind !== 'start') return;
      const { title, measuredMs } = steps.get(event.step) ?? { title: '', measuredMs: undefined };
      print(`• ${title}${measuredMs === undefined ? '' : ` (${duration(measuredMs)} last time)`}`);
    },
    close: () => clearInterval(timer),
  };
}

const clock = (): number => performance.now();

function apply(
  steps: Map<string, Step>,
  event: ProgressEvent,
  { now, measured }: { readonly now: number; readonly measured: Measured },
  print: (line: string) => void,
): void {
  const step = steps.get(event.step);
  if (event.kind === 'start') {
    const title = plain(event.title);
    const begun = { startedAt: now, fraction: undefined, detail: '', endsAt: Infinity };
    steps.set(event.step, { title, measuredMs: measured.get(title), ...begun });
    return;
  }
  if (step === undefined) return;
  if (event.kind === 'update') {
    // Never backwards, whatever several builds at once report.
    if (event.fraction !== undefined) {
      step.fraction = Math.max(event.fraction, step.fraction ?? 0);
    }
    step.detail = plain(event.detail ?? step.detail);
    return;
  }
  steps.delete(event.step);
  if (event.kind === 'failed') {
    // The rest of the message is for the error handler, e.g. the end of a console.
    const [reason = ''] = event.message.split('\n');
    print(`${styleText('red', '✗')} ${step.title}${reason === '' ? '' : `: ${plain(reason)}`}`);
  } else if (!event.cached) {
    measured.set(step.title, event.durationMs);
    print(`${styleText('green', '✓')} ${step.title} ${styleText('dim', duration(event.durationMs))}`);
  }
}

/** By the step's own count, otherwise time against that of the last time, never quite full; undefined: unknown. */
function shownFraction(step: Step, now: number): number | undefined {
  if (step.fraction !== undefined) return Math.min(1, Math.max(0, step.fraction));
  return step.measuredMs && Math.min(0.95, (now - step.startedAt) / step.measuredMs);
}

function progressText(step: Step, now: number): string {
  const fraction = shownFraction(step, now);
  const percent = fraction === undefined ? '' : ` ${Math.floor(fraction * 100)} %`;
  const detail = step.detail === '' ? '' : `: ${step.detail.slice(0, DETAIL_COLUMNS_MAX)}`;
  return `${step.title}${percent} after ${timeText(step, now)}${detail}`;
}

function timeText(step: Step, now: number): string {
  const left = shownTimeLeft(step, now);
  return `${duration(now - step.startedAt)}${left > 0 ? `, about ${duration(left)} left` : ''}`;
}

/** Never more than was promised before; once that is over, 0: no number is better than a growing one. */
function shownTimeLeft(step: Step, now: number): number {
  step.endsAt = Math.min(step.endsAt, now + timeLeft(step, now));
  return step.endsAt === Infinity ? 0 : Math.max(0, step.endsAt - now);
}

/** From the pace of what is counted once that is meaningful, otherwise from the last time; Infinity: unknown. */
function timeLeft({ fraction = 0, startedAt, measuredMs }: Step, now: number): number {
  const elapsedMs = now - startedAt;
  if (fraction >= FRACTION_FOR_PACE) return (elapsedMs * (1 - fraction)) / fraction;
  return measuredMs === undefined ? Infinity : Math.max(0, measuredMs - elapsedMs);
}

function stepLine(step: Step, now: number, columns: number): string {
  const fraction = shownFraction(step, now);
  const filled = Math.round((fraction ?? 0) * BAR_CELLS);
  const bar = '█'.repeat(filled) + '░'.repeat(BAR_CELLS - filled);
  const share = fraction === undefined ? '' : ` ${bar} ${Math.floor(fraction * 100)} %`;
  const head = `${step.title}${share} ${timeText(step, now)}`;
  const room = columns - head.length - 3;
  const detail = room >= DETAIL_COLUMNS_MIN ? ` ${step.detail.slice(0, room)}` : '';
  return `${head.slice(0, columns - 1)}${styleText('dim', detail)}`;
}

/** Kept in the cache of the home. Never fails: without the file, no time is told. */
export function measuredIn(cacheDir: string): Measured {
  const path = join(cacheDir, 'durations.json');
  return {
    get: (title) => readMeasured(path).get(title),
    set: (title, durationMs) => {
      if (title.length > TITLE_CHARACTERS_MAX) return;
      // The latest last.
      const all = readMeasured(path);
      all.delete(title);
      all.set(title, Math.max(1, Math.round(durationMs)));
      const kept = [...all].slice(-TITLES_MAX);
      try {
        mkdirSync(cacheDir, { recursive: true });
        const made = `${path}.${process.pid}`;
        writeFileSync(made, `${JSON.stringify(Object.fromEntries(kept))}\n`);
        renameSync(made, path);
      } catch (error) {
        ignore(error, 'the next time has no measure');
      }
    },
  };
}

function readMeasured(path: string): Map<string, number> {
  try {
    const text = readFileSync(path, 'utf8');
    const found: unknown = text.length > FILE_CHARACTERS_MAX ? {} : JSON.parse(text);
    const pairs = Object.entries(found ?? {});
    return new Map(pairs.filter((pair): pair is [string, number] => Number.isSafeInteger(pair[1]) && pair[1] > 0));
  } catch (error) {
    ignore(error, 'no file, or a damaged one: nothing was measured');
    return new Map();
  }
}
