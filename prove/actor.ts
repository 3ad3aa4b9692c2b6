/**
 * A process in its own network namespace that performs actions, one line of JSON each way (I/O). It ends with its
 * stdin, so that nothing is left even if we are killed.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { assert } from '../src/base/assert.ts';
import { ignore } from '../src/base/ignore.ts';
import { modulePath } from '../src/base/module-path.ts';

/** Command that enters a new network namespace, whose contents end with its last process. */
export const NEW_NAMESPACE = ['unshare', '--net'] as const;

type Answer = { readonly ok: unknown } | { readonly error: string };

export class Actor implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #asked: PromiseWithResolvers<unknown>[] = [];
  readonly #ended: Promise<void>;

  /**
   * @param file a role in this folder, or a path
   * @param fd the actor's descriptor 3
   */
  constructor(file: string, fd: number) {
    const [command, ...first] = NEW_NAMESPACE;
    const args = [...first, process.execPath, modulePath(file, import.meta.url)];
    this.#child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit', fd] });
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#ended = promise;
    const end = (why: unknown): void => {
      for (const { reject } of this.#asked.splice(0)) reject(why);
      resolve();
    };
    this.#child.once('error', end);
    this.#child.once('close', () => end(new Error(`${file} ended`)));
    this.#child.stdin?.on('error', (error) => ignore(error, 'the actor has ended'));
    assert(this.#child.stdout !== null, 'an actor has a stdout');
    createInterface({ input: this.#child.stdout }).on('line', (line) => {
      const answer = JSON.parse(line) as Answer;
      const asked = this.#asked.shift();
      if ('error' in answer) asked?.reject(new Error(answer.error));
      else asked?.resolve(answer.ok);
    });
  }

  /** Actions start at once; answers come in the order of the requests. */
  ask<T>(action: string, values: object = {}): Promise<T> {
    const asked = Promise.withResolvers<unknown>();
    this.#asked.push(asked);
    this.#child.stdin?.write(`${JSON.stringify({ action, values })}\n`);
    return asked.promise as Promise<T>;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.stdin?.end();
    await this.#ended;
  }
}

/** The actor's end: performs the actions on stdin, and ends with stdin. */
export function act(actions: Readonly<Record<string, (values: never) => unknown>>): void {
  // Answers are written in the order of the requests.
  let tail: Promise<void> = Promise.resolve();
  const lines = createInterface({ input: process.stdin });
  lines.on('line', (line) => {
    const { action, values } = JSON.parse(line) as { action: string; values: never };
    const answer = perform(actions[action], values, action);
    tail = tail.then(async () => {
      process.stdout.write(`${JSON.stringify(await answer)}\n`);
    });
  });
  lines.on('close', end);
  // The parent is gone; stdin ends too, a moment earlier or later.
  process.stdout.once('error', end);
}

/** An exit would abort with a native trace where a thread of ours is loading a library. */
function end(): void {
  process.kill(process.pid, 'SIGKILL');
}

async function perform(run: ((values: never) => unknown) | undefined, values: never, action: string): Promise<Answer> {
  try {
    if (run === undefined) throw new Error(`no action ${action}`);
    return { ok: (await run(values)) ?? null };
  } catch (error) {
    return { error: String(error) };
  }
}
