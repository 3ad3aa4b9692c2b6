/** `neurovisor top`: a live view of the daemon and its sandboxes. */
import { ReadStream } from 'node:tty';
import { sleep, systemClock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import type { SandboxInfo } from '../../sandbox/contract/control.ts';
import type { Cli } from '../cli.ts';
import type { Daemon } from '../library/daemon.ts';
import { eventText } from '../output/event-text.ts';
import { frameOf, type Scrape, type TopEvent, type TopFrame } from '../top/frame.ts';
import { type Key, keysOf } from '../top/keys.ts';
import { draw, drawWhole, SORTS, type Sort, type View } from '../top/picture.ts';
import { Samples } from '../top/samples.ts';
import { Screen } from '../top/screen.ts';

export interface TopFlags {
  /** Time between frames, milliseconds. */
  readonly interval?: number;
  readonly sort?: Sort;
}

const INTERVAL_MS = 1000;
/** Window of the latencies. */
const WINDOW_MS = 60_000;
const EVENTS_MAX = 50;

export async function top(cli: Cli, daemon: Daemon, flags: TopFlags): Promise<number> {
  const { sort = 'memory', interval = INTERVAL_MS } = flags;
  const view: View = { sort, reverse: false, offset: 0, color: false, problem: null };
  // One frame, also for a terminal that cannot place the cursor.
  if (cli.json || !cli.stdout.isTTY || cli.env['TERM'] === 'dumb') {
    const frame = frameOf(await scrape(daemon), { last: null, oldest: null }, []);
    if (cli.json) cli.printJson(frame);
    else cli.stdout.write(drawWhole(frame, view));
    return 0;
  }
  await new Live(cli, daemon, view).run(interval);
  return 0;
}

export async function scrape(daemon: Daemon): Promise<Scrape> {
  const [host, list, loads, text] = await Promise.all([daemon.host(), daemon.list(), daemon.loads(), daemon.metrics()]);
  return { host, list, loads, samples: new Samples(text) };
}

class Live {
  readonly #cli: Cli;
  readonly #daemon: Daemon;
  readonly #over = new AbortController();
  readonly #events: TopEvent[] = [];
  /** Last reported status of each sandbox. */
  readonly #reported = new Map<string, string>();
  #view: View;
  #screen: Screen | undefined;
  /** Scrapes of the last minute, oldest first. */
  #scrapes: Scrape[] = [];
  #frame: TopFrame | undefined;
  /** The daemon's clock minus ours. */
  #aheadMs = 0;

  constructor(cli: Cli, daemon: Daemon, view: View) {
    this.#cli = cli;
    this.#daemon = daemon;
    const { env } = cli;
    this.#view = { ...view, color: env['NO_COLOR'] === undefined };
  }

  async run(intervalMs: number): Promise<void> {
    const { stdin, stdout, cancelled } = this.#cli;
    // First, so that a missing daemon is reported as usual.
    await this.#update();
    const stop = this.#daemon.onChange((info) => this.#note(info));
    const keys = stdin instanceof ReadStream ? stdin : null;
    this.#screen = new Screen(stdout, keys, { onKeys: (typed) => this.#onKeys(typed), onResize: () => this.#draw() });
    const end = (): void => this.#over.abort();
    cancelled.addEventListener('abort', end, { once: true });
    if (cancelled.aborted) end();
    try {
      this.#draw();
      while (!this.#over.signal.aborted) {
        await sleep(intervalMs, this.#over.signal);
        await this.#tryUpdate();
        this.#draw();
      }
    } catch (error) {
      if (!this.#over.signal.aborted) throw error;
      ignore(error, 'interrupted');
    } finally {
      cancelled.removeEventListener('abort', end);
      stop();
      this.#screen.close();
    }
  }

  async #update(): Promise<void> {
    const now = await scrape(this.#daemon);
    this.#noteMissed(now.list);
    const { atMs } = now.loads;
    this.#aheadMs = atMs - systemClock.wall();
    this.#scrapes = this.#scrapes.filter(({ loads }) => atMs - loads.atMs <= WINDOW_MS);
    const last = this.#scrapes.at(-1) ?? null;
    this.#frame = frameOf(now, { last, oldest: this.#scrapes[0] ?? null }, [...this.#events]);
    this.#scrapes.push(now);
  }

  /** Keeps the last frame while the daemon is unreachable. */
  async #tryUpdate(): Promise<void> {
    try {
      await this.#update();
      this.#view = { ...this.#view, problem: null };
    } catch (error) {
      this.#view = { ...this.#view, problem: describeError(error) };
    }
  }

  #draw(): void {
    if (this.#screen === undefined || this.#frame === undefined) return;
    this.#screen.show(draw(this.#frame, this.#screen.size, this.#view));
  }

  #note({ id, status, origin, end }: SandboxInfo): void {
    if (status === 'ended') this.#reported.delete(id);
    else this.#reported.set(id, status);
    if (end === null) this.#push(id, 'status', `${status} (${origin})`);
    else this.#push(id, 'end', eventText({ type: 'end', end }));
  }

  /** Reports changes without an event: before the stream opened, and while the daemon was unreachable. */
  #noteMissed(list: readonly SandboxInfo[]): void {
    const isFirst = this.#scrapes.length === 0;
    const gone = new Set(this.#reported.keys());
    for (const info of list) {
      gone.delete(info.id);
      if (isFirst) this.#reported.set(info.id, info.status);
      else if (this.#reported.get(info.id) !== info.status) this.#note(info);
    }
    for (const id of gone) {
      this.#reported.delete(id);
      this.#push(id, 'status', 'ended');
    }
  }

  #push(sandbox: string, type: TopEvent['type'], text: string): void {
    this.#events.push({ atMs: systemClock.wall() + this.#aheadMs, sandbox, type, text });
    if (this.#events.length > EVENTS_MAX) this.#events.shift();
  }

  #onKeys(typed: string): void {
    for (const key of keysOf(typed)) this.#onKey(key);
    this.#draw();
  }

  #onKey(key: Key): void {
    const view = this.#view;
    const last = Math.max(0, (this.#frame?.sandboxes.length ?? 0) - 1);
    const scroll = (by: number): View => ({ ...view, offset: Math.min(last, Math.max(0, view.offset + by)) });
    const next = SORTS[(SORTS.indexOf(view.sort) + 1) % SORTS.length] ?? 'memory';
    const actions: Readonly<Record<Exclude<Key, 'quit'>, () => View>> = {
      sort: () => ({ ...view, sort: next, offset: 0 }),
      reverse: () => ({ ...view, reverse: !view.reverse, offset: 0 }),
      up: () => scroll(-1),
      down: () => scroll(1),
      'page-up': () => scroll(-10),
      'page-down': () => scroll(10),
      home: () => scroll(-Infinity),
      end: () => scroll(Infinity),
    };
    if (key === 'quit') this.#over.abort();
    else this.#view = actions[key]();
  }
}
