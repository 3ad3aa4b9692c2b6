/** `neurovisor image build`, and `--build` of `run` and `create`: an environment from a Dockerfile. */
import { constants } from 'node:fs';
import { open as openFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { styleText } from 'node:util';
import { DOCKERFILE_LIMITS } from '../../artifacts/dockerfile/limits.ts';
import { CodedError, describeError } from '../../base/errors.ts';
import { plain } from '../../base/text/plain.ts';
import { checkNewName } from '../../host/runtime/named-templates/names.ts';
import type { BuildEvent } from '../../sandbox/contract/contents.ts';
import { BUILD_LIMITS } from '../../sandbox/contract/limits.ts';
import type { BuiltImage, ImageBuild } from '../../sandbox/contract/schema/contents.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { readReference } from '../flags/image-flag.ts';
import { networkOptions } from '../flags/network-fields.ts';
import { sizeOptions } from '../flags/sandbox-fields.ts';
import { type BuildFiles, buildImage } from '../library/image-build.ts';
import { duration, table } from '../output/table.ts';
import { openContents } from './contents.ts';

export interface BuildFlags {
  readonly name?: string;
  readonly file?: string;
  readonly buildArg: readonly string[];
  readonly target?: string;
  readonly buildSecret: readonly string[];
  /** False: `--no-cache`. */
  readonly cache: boolean;
  readonly progress?: 'plain' | 'quiet';
  readonly net?: 'none' | 'egress' | 'open';
  readonly allowOut: readonly string[];
  readonly denyOut: readonly string[];
}

/** @param contextDir directory of COPY; `-f -` reads the Dockerfile from stdin */
export async function imageBuild(cli: Cli, contextDir: string, flags: BuildFlags): Promise<number> {
  const { name, net, allowOut, denyOut } = flags;
  if (name !== undefined) {
    checkNewName(name);
    await readReference(name);
  }
  const [build, files] = await readBuild(cli, contextDir, flags);
  const { cpus, memoryMib, diskMib } = sizeOptions(flags);
  const network = networkOptions({ allowOut, denyOut, ...(net === undefined ? {} : { net }) });
  const request = {
    ...build,
    cpus,
    memoryMib,
    diskMib,
    ...(name === undefined ? {} : { name }),
    ...(network === undefined ? {} : { network }),
  };
  const built = await buildShown(cli, flags.progress ?? 'plain', request, files);
  cli.progress.close();
  show(cli, built);
  return 0;
}

/**
 * For `--build`: without a name, in a VM of the default size. Shows steps that run, and of cached ones nothing.
 * @throws UsageError, DockerfileError, OciError, and their codes from a daemon
 */
export async function buildDirectory(cli: Cli, contextDir: string): Promise<BuiltImage> {
  const [build, files] = await readBuild(cli, contextDir, { buildArg: [], buildSecret: [], cache: true });
  try {
    return await buildShown(cli, 'steps', build, files);
  } catch (error) {
    throw withOwnOptions(error, contextDir);
  }
}

async function buildShown(
  cli: Cli,
  kind: BuildViewKind,
  build: Omit<ImageBuild, 'context'>,
  files: BuildFiles,
): Promise<BuiltImage> {
  await using contents = await openContents(cli);
  const view = new BuildView(cli, kind);
  return await buildImage(contents, build, files, { ...contents.work, onEvent: (event) => view.show(event) });
}

/** A remedy may name an option that means the sandbox beside `--build`. */
function withOwnOptions(error: unknown, contextDir: string): unknown {
  if (!(error instanceof CodedError) || error.remedy?.includes('--') !== true) return error;
  const { code, message, cause, remedy } = error;
  const how = `neurovisor image build -t NAME ${contextDir}, then neurovisor run --image NAME`;
  return new CodedError(code, message, { cause, remedy: `${remedy} (an option of ${how})` });
}

async function readBuild(
  cli: Cli,
  contextDir: string,
  flags: Pick<BuildFlags, 'file' | 'buildArg' | 'target' | 'buildSecret' | 'cache'>,
): Promise<[Omit<ImageBuild, 'context'>, BuildFiles]> {
  const path = flags.file ?? join(contextDir, 'Dockerfile');
  const { fileBytesMax } = DOCKERFILE_LIMITS;
  const dockerfile = path === '-' ? await readStdin(cli, fileBytesMax) : await readBounded(path, fileBytesMax);
  const secrets = await readSecrets(cli, flags.buildSecret);
  const build = {
    dockerfile: dockerfile.toString(),
    args: readArguments(cli, flags.buildArg),
    secrets: Object.fromEntries([...secrets].map(([id, secret]) => [id, secret.toString('base64')])),
    noCache: !flags.cache,
    ...(flags.target === undefined ? {} : { target: flags.target }),
  };
  return [build, { dir: resolve(contextDir), dockerfile: path === '-' ? null : resolve(path) }];
}

/** @throws UsageError */
async function readBounded(path: string, bytesMax: number): Promise<Buffer> {
  try {
    await using file = await openFile(path, constants.O_RDONLY | constants.O_NONBLOCK);
    if (!(await file.stat()).isFile()) throw new Error('it is not a file');
    const { buffer, bytesRead } = await file.read(Buffer.alloc(bytesMax + 1));
    if (bytesRead > bytesMax) throw new Error(`it is larger than ${bytesMax} bytes`);
    return buffer.subarray(0, bytesRead);
  } catch (error) {
    throw new UsageError(`can't read ${path}: ${describeError(error)}`);
  }
}

async function readStdin({ stdin }: Cli, bytesMax: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of stdin) {
    chunks.push(Buffer.from(chunk));
    bytes += chunk.length;
    if (bytes > bytesMax) throw new UsageError(`the Dockerfile is larger than ${bytesMax} bytes`);
  }
  return Buffer.concat(chunks);
}

/** `NAME=VALUE`, or `NAME` with the value of this environment. */
function readArguments(cli: Cli, given: readonly string[]): Readonly<Record<string, string>> {
  const pairs = given.flatMap((text) => {
    const equals = text.indexOf('=');
    const name = equals < 0 ? text : text.slice(0, equals);
    if (!BUILD_LIMITS.argName.test(name)) {
      throw new UsageError(`invalid build argument "${text}"`, 'use NAME=VALUE, or NAME alone');
    }
    const value = equals < 0 ? cli.env[name] : text.slice(equals + 1);
    return value === undefined ? [] : [[name, value] as const];
  });
  return Object.fromEntries(pairs);
}

async function readSecrets(cli: Cli, given: readonly string[]): Promise<ReadonlyMap<string, Buffer>> {
  if (given.length > BUILD_LIMITS.secretsMax) throw new UsageError(`more than ${BUILD_LIMITS.secretsMax} secrets`);
  const secrets = new Map<string, Buffer>();
  for (const text of given) {
    const fields = new Map(
      text.split(',').map((part) => {
        const equals = part.indexOf('=');
        return [part.slice(0, equals), part.slice(equals + 1)] as const;
      }),
    );
    const id = fields.get('id') ?? '';
    const path = fields.get('src') ?? fields.get('source');
    const variable = fields.get('env') ?? (path === undefined ? id : undefined);
    if (!BUILD_LIMITS.secretId.test(id)) {
      throw new UsageError(`invalid secret "${text}"`, 'use id=NAME,src=FILE or id=NAME,env=VARIABLE');
    }
    const value = path === undefined ? cli.env[variable ?? ''] : undefined;
    if (path !== undefined) secrets.set(id, await readBounded(path, BUILD_LIMITS.secretBytesMax));
    else if (value !== undefined) secrets.set(id, Buffer.from(value));
    else throw new UsageError(`the secret ${id}: ${variable} is not set in this environment`);
  }
  return secrets;
}

/**
 * `quiet`: warnings alone. `steps`: those that run, without their output; if nothing runs, not even warnings, which the
 * build that ran has shown.
 */
type BuildViewKind = 'plain' | 'quiet' | 'steps';

/** Steps and their output as lines on stderr. Output is hostile. */
export class BuildView {
  readonly #cli: Pick<Cli, 'stderr'>;
  readonly #kind: BuildViewKind;
  #rest = '';
  /** Warnings to show once something runs. */
  #held: string[] = [];

  constructor(cli: Pick<Cli, 'stderr'>, kind: BuildViewKind) {
    this.#cli = cli;
    this.#kind = kind;
  }

  show(event: BuildEvent): void {
    if (event.kind === 'warning') {
      const text = `${styleText('yellow', 'warning')}: ${plain(event.text)}`;
      if (this.#kind === 'steps') this.#held.push(text);
      else this.#line(text);
    }
    if (this.#kind === 'quiet') return;
    if (this.#kind === 'steps') {
      if (event.kind === 'output' || (event.kind === 'step' && event.cached)) return;
      if (event.kind === 'step' || event.kind === 'pack') {
        for (const text of this.#held.splice(0)) this.#line(text);
      }
    }
    if (event.kind === 'step') {
      const { number, stage, index, count, text, cached } = event;
      const state = cached ? ` ${styleText('dim', 'cached')}` : '';
      this.#line(`#${number} [${plain(stage)} ${index}/${count}] ${plain(text)}${state}`);
    } else if (event.kind === 'output') this.#output(event.number, event.chunk);
    else if (event.kind === 'done') {
      this.#flush(event.number);
      this.#line(`#${event.number} ${styleText('green', 'done')} ${duration(event.durationMs)}`);
    } else if (event.kind === 'pack') this.#line(`pack ${plain(event.stage)}`);
  }

  #output(number: number, chunk: Uint8Array): void {
    const lines = (this.#rest + Buffer.from(chunk).toString('utf8')).split('\n');
    this.#rest = (lines.pop() ?? '').slice(-LINE_CHARACTERS_MAX);
    for (const line of lines) this.#outputLine(number, line);
  }

  #flush(number: number): void {
    if (this.#rest !== '') this.#outputLine(number, this.#rest);
    this.#rest = '';
  }

  #outputLine(number: number, line: string): void {
    const last = line.replace(/\r$/, '').split('\r').at(-1) ?? '';
    this.#line(`#${number} ${styleText('dim', plain(last.slice(0, LINE_CHARACTERS_MAX)))}`);
  }

  #line(text: string): void {
    this.#cli.stderr.write(`${text}\n`);
  }
}

const LINE_CHARACTERS_MAX = 4_000;

function show(cli: Cli, { image, environment, warnings, steps }: BuiltImage): void {
  if (cli.json) {
    cli.printJson({ ...image, environment, warnings, steps });
    return;
  }
  const { config } = image;
  const rows = [
    ['digest', image.digest],
    ['names', image.names.join(', ') || '-'],
    ['user', config.user || 'root'],
    ['directory', config.workdir],
    ['entrypoint', config.entrypoint.join(' ') || '-'],
    ['command', config.cmd.join(' ') || '-'],
    ['steps', `${steps.run} run, ${steps.cached} cached`],
  ];
  cli.stdout.write(`${table(['part', 'value'], rows)}\n`);
}
