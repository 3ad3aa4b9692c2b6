/** The cassette of a runtime: model requests of its sandboxes are recorded in a file, or answered from it. */

import type { CassetteChoice } from '../../../base/config.ts';
import { type Log, silentLog } from '../../../base/log.ts';
import { readCassette, requireCassettePlace, writeCassette } from '../../../inference/bridge/tape/cassette-file.ts';
import { type MissingAnswer, Player } from '../../../inference/bridge/tape/player.ts';
import { Recorder } from '../../../inference/bridge/tape/recorder.ts';
import type { Tape } from '../../../inference/bridge/tape/tape.ts';
import type { Upstream } from '../upstream.ts';

export interface CassetteReport {
  readonly mode: CassetteChoice['mode'];
  readonly path: string;
  /** Requests with an answer: written to the file, or played from it. */
  readonly answered: number;
  /** Requests that the model server did not answer, or that are not in the cassette. */
  readonly unanswered: number;
  readonly missing: readonly MissingAnswer[];
}

/** This process's recorders by path: the library opens several runtimes, which record into one cassette. */
const recorders = new Map<string, Recorder>();

export class RuntimeTape {
  readonly tape: Tape;
  /** Replaces the model server; `null` if there is one. */
  readonly upstream: Upstream | null;
  readonly #path: string;
  readonly #log: Log;
  readonly #player: Player | null;
  readonly #recorder: Recorder | null;
  #isReported = false;
  #defaultModel: string | null = null;

  private constructor(path: string, part: Player | Recorder, log: Log) {
    this.tape = part;
    this.#path = path;
    this.#log = log;
    this.#player = part instanceof Player ? part : null;
    this.#recorder = part instanceof Recorder ? part : null;
    this.upstream = part instanceof Player ? upstreamOf(path, part) : null;
  }

  /** @throws CassetteError if the file is no cassette, or no cassette can be written there */
  static async open(choice: CassetteChoice | null, log: Log): Promise<RuntimeTape | null> {
    if (choice === null) return null;
    const { mode, path } = choice;
    if (mode === 'replay') return new RuntimeTape(path, new Player(await readCassette(path)), log);
    const known = recorders.get(path);
    if (known === undefined) await requireCassettePlace(path);
    const recorder = known ?? new Recorder();
    recorders.set(path, recorder);
    return new RuntimeTape(path, recorder, log);
  }

  /** For consecutive runtimes of one owner, who writes and reports. @throws CassetteError */
  static async openShared({ mode, path }: CassetteChoice): Promise<RuntimeTape> {
    if (mode === 'record') await requireCassettePlace(path);
    const part = mode === 'record' ? new Recorder() : new Player(await readCassette(path));
    const tape = new RuntimeTape(path, part, silentLog);
    tape.#isReported = true;
    return tape;
  }

  report(): CassetteReport {
    const player = this.#player;
    const path = this.#path;
    this.#isReported = true;
    if (player !== null) {
      const { playedCount, missingCount, missing } = player;
      return { mode: 'replay', path, answered: playedCount, unanswered: missingCount, missing };
    }
    const unanswered = this.#recorder?.unansweredCount ?? 0;
    const answered = this.#recorder?.answeredCount ?? 0;
    return { mode: 'record', path, answered, unanswered, missing: [] };
  }

  /**
   * Writes the recording. Without any answer, the file stays unchanged.
   * @param defaultModel default: as before
   * @throws CassetteError
   */
  async write(defaultModel = this.#defaultModel): Promise<void> {
    this.#defaultModel = defaultModel;
    const exchanges = this.#recorder?.exchanges() ?? [];
    if (exchanges.length > 0) await writeCassette(this.#path, { defaultModel, exchanges });
  }

  /** Writes the recording, and logs results that were not reported. @throws CassetteError */
  async close(defaultModel: string | null): Promise<void> {
    await this.write(defaultModel);
    if (this.#isReported) return;
    const { mode, path, unanswered: count, missing } = this.report();
    if (count === 0) return;
    if (mode === 'record') {
      this.#log.warn('requests without an answer are not in the cassette', { path, count });
    } else {
      const first = missing[0]?.difference ?? '';
      this.#log.error('requests are not in the cassette', { path, count, first });
    }
  }
}

function upstreamOf(path: string, { target }: Player): Upstream {
  const models = target.models ?? [];
  return {
    description: `cassette ${path}`,
    needsModel: false,
    defaultModel: models[0] ?? null,
    models,
    offered: async () => models,
    source: () => async () => target,
    warm: async () => undefined,
    close: async () => undefined,
  };
}
