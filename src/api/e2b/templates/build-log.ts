/** The log of a build: entries that clients read by number. Output is hostile. */
import { plain } from '../../../base/text/plain.ts';
import type { TemplateStep } from '../../../sandbox/contract/template-step.ts';
import { E2B_LIMITS } from '../limits.ts';
import type { TemplateBuildEvent } from '../parts.ts';

export type LogLevel = 'debug' | 'info' | 'warn' | 'error';

export interface LogEntry {
  readonly timestampMs: number;
  readonly level: LogLevel;
  readonly message: string;
  /** As clients expect it: a number, `base` or `finalize`. */
  readonly step: string | null;
}

export class BuildLog {
  readonly #entries: LogEntry[] = [];
  readonly #wall: () => number;
  readonly #steps: readonly TemplateStep[];
  #characters = 0;
  #isFull = false;
  #rest: { step: number; stream: string; text: string } | null = null;
  /** Number of shown steps; a step of a client may be several of ours. */
  #shown = 0;

  constructor(wall: () => number, steps: readonly TemplateStep[]) {
    this.#wall = wall;
    this.#steps = steps;
  }

  read(offset: number, limit: number): readonly LogEntry[] {
    return this.#entries.slice(offset, offset + limit);
  }

  last(count: number): readonly LogEntry[] {
    return this.#entries.slice(-count);
  }

  add(level: LogLevel, message: string, step: string | null = null): void {
    const { logEntriesMax, logCharactersMax, logLineCharactersMax } = E2B_LIMITS;
    if (this.#isFull && level !== 'error') return;
    const text = plain(message).slice(0, logLineCharactersMax);
    this.#characters += text.length;
    const isFull = this.#entries.length >= logEntriesMax || this.#characters > logCharactersMax;
    if (isFull && !this.#isFull) {
      this.#isFull = true;
      this.#push('warn', 'the log is full: what follows is left out', step);
    }
    if (!isFull || level === 'error') this.#push(level, text, step);
  }

  event(event: TemplateBuildEvent): void {
    if (event.kind === 'output') {
      this.#output(event);
      return;
    }
    this.flush();
    if (event.kind === 'step') this.#step(event.step, event.isCached);
    else this.add(event.kind === 'warning' ? 'warn' : 'info', event.text);
  }

  flush(): void {
    const rest = this.#rest;
    this.#rest = null;
    if (rest !== null && rest.text !== '') this.#line(rest.step, rest.stream, rest.text);
  }

  #step(step: number, isCached: boolean): void {
    if (step === 0 || step <= this.#shown) return;
    this.#shown = step;
    const shown = this.#steps[step - 1];
    const text = `[builder ${step}/${this.#steps.length}] ${shown === undefined ? '' : stepText(shown)}`;
    this.add('info', isCached ? `CACHED ${text}` : text, `${step}`);
  }

  #output({ step, stream, chunk }: Extract<TemplateBuildEvent, { kind: 'output' }>): void {
    if (this.#rest !== null && (this.#rest.step !== step || this.#rest.stream !== stream)) {
      this.flush();
    }
    const text = `${this.#rest?.text ?? ''}${chunk.toString('utf8')}`;
    const lines = text.split('\n');
    const rest = (lines.pop() ?? '').slice(-E2B_LIMITS.logLineCharactersMax);
    for (const line of lines) this.#line(step, stream, line);
    this.#rest = { step, stream, text: rest };
  }

  #line(step: number, stream: string, line: string): void {
    // Drops text that a progress bar has overwritten.
    const last = line.replace(/\r$/, '').split('\r').at(-1) ?? '';
    const where = step === 0 ? 'base' : `builder ${step}/${this.#steps.length}`;
    const level = stream === 'stderr' ? 'warn' : 'info';
    this.add(level, `[${where}] [${stream}]: ${last}`, step === 0 ? 'base' : `${step}`);
  }

  #push(level: LogLevel, message: string, step: string | null): void {
    this.#entries.push({ timestampMs: this.#wall(), level, message, step });
  }
}

/** Like an instruction of a Dockerfile. Hides values of variables, which may be secret. */
export function stepText(step: TemplateStep): string {
  if (step.kind === 'run') return `RUN ${step.command}`;
  if (step.kind === 'copy') return `COPY ${step.source} ${step.target}`;
  if (step.kind === 'env') return `ENV ${step.pairs.map(([name]) => name).join(' ')}`;
  return step.kind === 'workdir' ? `WORKDIR ${step.path}` : `USER ${step.user}`;
}
