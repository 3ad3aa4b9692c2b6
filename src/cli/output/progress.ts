/**
 * Draws the progress of long work on stderr. On a terminal: one line per running step, redrawn in
 * place. Elsewhere (CI, a file): a line when a step starts and ends, and a sign of life in between.
 */
import { createRequire } from 'node:module';
import { styleText } from 'node:util';
import type { ProgressEvent } from '../../base/progress.ts';
import { plain } from '../../base/text/plain.ts';
import type { ProgressView } from '../cli.ts';
import { duration } from './table.ts';

interface Step {
  title: string;
  estimateMs: number;
  isWhole: boolean;
  startedAt: number;
  fraction: number | undefined;
  detail: string;
  /** The earliest end that was shown. */
  endsAt: number;
}

/** Running steps, in start order. */
type Steps = ReadonlyMap<string, Step>;

const REDRAW_MS = 100;
const SIGN_OF_LIFE_MS = 15_000;
const BAR_CELLS = 20;
const DETAIL_COLUMNS_MIN = 10;
const FRACTION_FOR_PACE = 0.2;

export function progressView(stream: NodeJS.WriteStream, now: () => number = () => performance.now()): ProgressView {
  return stream.isTTY ? liveView(stream, now) : plainView(stream, now);
}

function liveView(stream: NodeJS.WriteStream, now: () => number): ProgressView {
  const steps = new Map<string, Step>();
  let live: LogUpdate | undefined;
  const draw = (): void => {
    const columns = stream.columns ?? 80;
    const lines = [...steps.values()].map((step) => stepLine(step, steps, now(), columns));
    if (lines.length === 0) return;
    live ??= logUpdateOn(stream);
    live(lines.join('\n'));
  };
  const timer = setInterval(draw, REDRAW_MS);
  timer.unref();
  return {
    report: (event) => {
      apply(steps, event, now(), (line) => {
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
export function plainView(stream: NodeJS.WritableStream, now: () => number = () => performance.now()): ProgressView {
  const steps = new Map<string, Step>();
  const print = (line: string): void => void stream.write(`${line}\n`);
  const timer = setInterval(() => {
    for (const step of steps.values()) print(`  … ${progressText(step, steps, now())}`);
  }, SIGN_OF_LIFE_MS);
  timer.unref();
  return {
    report: (event) => {
      apply(steps, event, now(), print);
      if (event.kind === 'start') {
        print(`• ${event.title} (about ${duration(event.estimateMs)})`);
      }
    },
    close: () => clearInterval(timer),
  };
}

function apply(steps: Map<string, Step>, event: ProgressEvent, now: number, print: (line: string) => void): void {
  const step = steps.get(event.step);
  if (event.kind === 'start') {
    const { title, estimateMs, isWhole = false } = event;
    const begun = { startedAt: now, fraction: undefined, detail: '', endsAt: Infinity };
    steps.set(event.step, { title: plain(title), estimateMs, isWhole, ...begun });
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
    print(`${styleText('green', '✓')} ${step.title} ${styleText('dim', duration(event.durationMs))}`);
  }
}

/** Fraction by the step's own count, otherwise time against the estimate, never quite full. */
function shownFraction(step: Step, now: number): number {
  if (step.fraction !== undefined) return Math.min(1, Math.max(0, step.fraction));
  return Math.min(0.95, (now - step.startedAt) / Math.max(1, step.estimateMs));
}

function progressText(step: Step, steps: Steps, now: number): string {
  const percent = Math.floor(shownFraction(step, now) * 100);
  const elapsed = now - step.startedAt;
  const left = shownTimeLeft(step, steps, now);
  const rest = left > 0 ? `, about ${duration(left)} left` : '';
  return `${step.title} ${percent} % after ${duration(elapsed)}${rest}`;
}

/** Never more than was promised before; once that is over, 0: no number is better than a growing one. */
function shownTimeLeft(step: Step, steps: Steps, now: number): number {
  step.endsAt = Math.min(step.endsAt, now + timeLeft(step, steps, now));
  return Math.max(0, step.endsAt - now);
}

/**
 * Estimates from the pace so far once that is meaningful, otherwise from the estimate. A whole takes as long as the
 * longest of its parts, which run in parallel.
 */
function timeLeft(step: Step, steps: Steps, now: number): number {
  const [fraction, elapsedMs] = [shownFraction(step, now), now - step.startedAt];
  if (step.fraction === undefined || fraction < FRACTION_FOR_PACE) return Math.max(0, step.estimateMs - elapsedMs);
  const all = [...steps.values()];
  const parts = step.isWhole ? all.slice(all.indexOf(step) + 1) : [];
  if (parts.length > 0) return Math.max(...parts.map((part) => timeLeft(part, steps, now)));
  return (elapsedMs * (1 - fraction)) / fraction;
}

function stepLine(step: Step, steps: Steps, now: number, columns: number): string {
  const fraction = shownFraction(step, now);
  const filled = Math.round(fraction * BAR_CELLS);
  const bar = '█'.repeat(filled) + '░'.repeat(BAR_CELLS - filled);
  const elapsed = now - step.startedAt;
  const left = shownTimeLeft(step, steps, now);
  const time = `${duration(elapsed)}${left > 0 ? `, about ${duration(left)} left` : ''}`;
  const head = `${step.title} ${bar} ${Math.floor(fraction * 100)} % ${time}`;
  const room = columns - head.length - 3;
  const detail = room >= DETAIL_COLUMNS_MIN ? ` ${step.detail.slice(0, room)}` : '';
  return `${head.slice(0, columns - 1)}${styleText('dim', detail)}`;
}
