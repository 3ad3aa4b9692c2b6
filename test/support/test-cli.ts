/** A `Cli` whose streams are in memory, for commands that run in the test's own process. */
import { PassThrough } from 'node:stream';
import { readConfig } from '../../src/base/config.ts';
import { Cli, type CliStreams } from '../../src/cli/cli.ts';
import { progressView } from '../../src/cli/output/progress.ts';

export interface TestCli {
  readonly cli: Cli;
  readonly stdin: PassThrough;
  stdout(): string;
  stderr(): string;
  /** Resolves when stdout contains the text. */
  seen(text: string): Promise<void>;
}

export function testCli(options: { json?: boolean; stdin?: string; env?: Record<string, string> } = {}): TestCli {
  const { json = false, env = {} } = options;
  const stdin = new PassThrough();
  if (options.stdin !== undefined) stdin.end(options.stdin);
  const out = collected();
  const err = collected();
  const streams = {
    stdin: stdin as unknown as CliStreams['stdin'],
    // Properties that these lack of a terminal's streams (size, colors) are optional to every command.
    stdout: out.stream as unknown as NodeJS.WriteStream,
    stderr: err.stream as unknown as NodeJS.WriteStream,
  };
  const progress = progressView(streams.stderr);
  const cli = new Cli({ streams, env, config: readConfig(env), progress, json });
  return { cli, stdin, stdout: out.text, stderr: err.text, seen: out.seen };
}

function collected() {
  const stream = new PassThrough();
  let text = '';
  const watchers = new Set<() => void>();
  stream.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
    for (const watcher of watchers) watcher();
  });
  const seen = (wanted: string): Promise<void> =>
    new Promise((resolve) => {
      const watcher = (): void => {
        if (!text.includes(wanted)) return;
        watchers.delete(watcher);
        resolve();
      };
      watchers.add(watcher);
      watcher();
    });
  return { stream, text: () => text, seen };
}
