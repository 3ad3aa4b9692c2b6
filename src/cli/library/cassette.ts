/** Record and replay of what sandboxes ask models, for tests of agents without a model. */
import { resolve } from 'node:path';
import type { CassetteReport, RuntimeTape } from '../../host/runtime/model-servers/tape.ts';
import type { Host, SandboxCassette } from './host.ts';
import { type LocalOptions, LocalPlane, type OpenedPlane, startPlane } from './local.ts';

export type { CassetteReport } from '../../host/runtime/model-servers/tape.ts';

type Start = (options: LocalOptions, tape: RuntimeTape) => Promise<OpenedPlane>;

/**
 * A file with requests to models and their answers (`docs/replay.md`). Its sandboxes are of this process, and of no daemon:
 *
 *     await using cassette = await Cassette.replay('agent.cassette.json');
 *     await using sandbox = await Sandbox.create({ cassette });
 */
export class Cassette implements SandboxCassette {
  readonly #tape: RuntimeTape;
  readonly #plane: LocalPlane;
  #closed: Promise<CassetteReport> | undefined;

  private constructor(tape: RuntimeTape, start: Start) {
    this.#tape = tape;
    this.#plane = new LocalPlane((options) => start(options, tape));
  }

  /**
   * Answers the requests of its sandboxes from the file; no model is needed.
   * @param start for tests
   * @throws CassetteError `cassette_failed`, `cassette_invalid`, `cassette_too_large`
   */
  static replay(path: string, start: Start = startPlane): Promise<Cassette> {
    return Cassette.#open('replay', path, start);
  }

  /**
   * Keeps the requests of its sandboxes, with their answers, and replaces the file at the end.
   * @param start for tests
   * @throws CassetteError `cassette_failed`, and as `replay` if the file is no cassette
   */
  static record(path: string, start: Start = startPlane): Promise<Cassette> {
    return Cassette.#open('record', path, start);
  }

  static async #open(mode: CassetteReport['mode'], path: string, start: Start): Promise<Cassette> {
    // Loaded only here, as the rest of the runtime.
    const { RuntimeTape } = await import('../../host/runtime/model-servers/tape.ts');
    return new Cassette(await RuntimeTape.openShared({ mode, path: resolve(path) }), start);
  }

  /** Returns what was recorded or played so far, and the first 100 requests that are not in the cassette. */
  report(): CassetteReport {
    return this.#tape.report();
  }

  /**
   * Writes what was recorded; without any answer, the file stays as it is. To be called when its sandboxes have ended. Idempotent.
   * @throws CassetteError `cassette_failed`, `cassette_too_large`
   */
  close(): Promise<CassetteReport> {
    this.#closed ??= this.#tape.write().then(() => this.report());
    return this.#closed;
  }

  /** @throws CassetteError as `close`; `not_in_cassette`, if a request had no answer: such a test has tested something else */
  async [Symbol.asyncDispose](): Promise<void> {
    const { mode, path, unanswered, missing } = await this.close();
    if (mode === 'record' || unanswered === 0) return;
    const { CassetteError } = await import('../../host/runtime/thrown.ts');
    const requests = unanswered === 1 ? '1 request' : `${unanswered} requests`;
    const message = `${requests} had no answer in the cassette ${path}: ${missing[0]?.difference ?? ''}`;
    throw new CassetteError('not_in_cassette', message, { remedy: 'record it again' });
  }

  /** For `Sandbox`. @throws CassetteError `cassette_closed`, `cassette_daemon` */
  async host(options: LocalOptions & Parameters<SandboxCassette['host']>[0]): Promise<Host> {
    const { daemon = 'auto', ...local } = options;
    const { CassetteError } = await import('../../host/runtime/thrown.ts');
    if (this.#closed !== undefined) {
      throw new CassetteError('cassette_closed', 'the cassette is closed', {
        remedy: 'open it again, or close it when its sandboxes have ended',
      });
    }
    if (daemon !== 'auto' && daemon !== 'never') {
      throw new CassetteError('cassette_daemon', 'a cassette is for sandboxes of this process', {
        remedy: 'omit `daemon`, or start the daemon with `neurovisor serve --replay FILE`',
      });
    }
    return this.#plane.host(local);
  }
}
