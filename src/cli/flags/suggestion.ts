/** What to write instead of a refused word: its name of today, our word for docker's, uv's or E2B's, or a near one. */
import type { Command } from 'commander';
import { nearNames } from '../../base/text/near-names.ts';

const NO_MOUNT = 'nothing of this machine is mounted: use';
const RUN_MOUNT = `${NO_MOUNT} --copy, --out, or --project DIR --sync`;
const CREATE_MOUNT = `${NO_MOUNT} neurovisor cp`;
const RUN_PORT = 'use neurovisor create, then neurovisor port ID PORT';
const CREATE_PORT = 'use neurovisor port ID PORT afterwards';
const DETACH = 'use neurovisor create, then neurovisor exec --detach ID -- PROGRAM';
const REBUILD = 'use neurovisor image build -t NAME';
const PACKAGES = 'use neurovisor run --with PACKAGE, or neurovisor template create --with PACKAGE';
const ROOT = 'omit it: --user root is root of its own VM';
const REMOVE = 'use rm';

/** `OPTION`, of any command, or `COMMAND OPTION`. */
const OPTIONS: Readonly<Record<string, string>> = {
  '--cwd': 'use --workdir (-w)',
  '--no-template': 'use --boot',
  '--budget': 'use --model-budget',
  '--tokens-per-minute': 'use --model-budget rate=N',
  '--tag': 'use --name (-t)',
  '--no-follow': 'omit it: events ends by itself, and -f follows',
  '--build-arg': `${REBUILD} --build-arg …, then --image NAME`,
  '--target': `${REBUILD} --target …, then --image NAME`,
  '--endpoint': 'use ./neurovisor prove-endpoint in a checkout',
  '--network': 'use --net none, egress or open',
  '--privileged': ROOT,
  '--cap-add': ROOT,
  '--gpus': 'omit it: sandboxes have no GPU; models use the GPU of the host',
  '--env-file': 'use -e NAME=VALUE, or -e NAME for a value of this shell',
  '--with-requirements': 'use --requirements',
  '--directory': 'use --project DIR',
  'run --rm': 'omit it: run always removes its sandbox',
  'create --python': 'use --image, for example --image python:3.13-slim',
  'run -u': 'use --user',
  'run -d': DETACH,
  'run --detach': DETACH,
  'run -v': RUN_MOUNT,
  'run --mount': RUN_MOUNT,
  'run -p': RUN_PORT,
  'run --publish': RUN_PORT,
  'create -v': CREATE_MOUNT,
  'create --mount': CREATE_MOUNT,
  'create -p': CREATE_PORT,
  'create --publish': CREATE_PORT,
  'create -d': 'omit it: the sandbox stays',
  'create --rm': 'omit it: the sandbox is removed at its --timeout, or by neurovisor rm',
  'rm -f': 'omit it: rm asks nothing',
  'rm --force': 'omit it: rm asks nothing',
};

/** Also of groups, such as `neurovisor key revoke`. */
const COMMANDS: Readonly<Record<string, string>> = {
  build: 'use neurovisor template create, and neurovisor image build for a Dockerfile',
  revoke: 'use neurovisor key rm',
  show: 'use inspect',
  doctor: 'use neurovisor doctor --network',
  seccomp: 'use ./neurovisor seccomp in a checkout',
  list: 'use ls',
  remove: REMOVE,
  delete: REMOVE,
  kill: REMOVE,
  images: 'use neurovisor image ls',
  pull: 'use neurovisor image pull',
  rmi: 'use neurovisor image rm',
  start: 'use neurovisor resume',
  unpause: 'use neurovisor resume',
  stop: 'use neurovisor pause, or neurovisor rm',
  restart: 'use neurovisor pause --to disk-only, then neurovisor resume',
  connect: 'use neurovisor shell',
  commit: 'use neurovisor snapshot create',
  stats: 'use neurovisor top',
  info: 'use neurovisor host, or neurovisor doctor',
  system: 'use neurovisor df, neurovisor prune or neurovisor doctor',
  network: 'use --net of neurovisor run and create; neurovisor net shows networks',
  container: 'omit it, for example neurovisor ls',
  sandbox: 'omit it, for example neurovisor ls',
  daemon: 'use neurovisor serve',
  version: 'use neurovisor --version',
  pip: PACKAGES,
  add: PACKAGES,
  install: PACKAGES,
  python: 'use neurovisor run --python 3.13',
};

/**
 * @param message of commander
 * @param program with the commands that the words may name
 * @returns the remedy; without a better one, which help to see
 */
export function suggestion(message: string, program: Command, words: readonly string[]): string {
  const command = commandOf(program, words);
  const path = pathOf(command);
  if (path === 'ps' && /^error: missing /.test(message)) {
    const isAll = words.some((word) => word === '-a' || word === '--all');
    return `to list sandboxes: neurovisor ls${isAll ? ' -a' : ''}`;
  }
  const [, kind, word = ''] = /unknown (option|command) '([^']*)'/.exec(message) ?? [];
  // `-p80:80`, `--net=none`
  const name = /^(-[^-]|[^=]*)/.exec(word)?.[0] ?? '';
  const known = kind === 'command' ? find(COMMANDS, name) : (find(OPTIONS, `${path} ${name}`) ?? find(OPTIONS, name));
  if (known !== undefined) return known;
  const near = kind === 'command' ? nearNames(name, namesOf(command)) : nearOptions(name, command);
  if (near.length > 0) return `did you mean ${near.join(' or ')}?`;
  const ofProgram = kind === 'option' && path === 'run' ? programOption(word, words) : null;
  return ofProgram ?? `see ${['neurovisor', path, '--help'].filter((one) => one !== '').join(' ')}`;
}

const find = (table: Readonly<Record<string, string>>, key: string): string | undefined =>
  Object.hasOwn(table, key) ? table[key] : undefined;

/** The command that the first words name: a group, or the program itself, if they name none of its commands. */
function commandOf(program: Command, words: readonly string[]): Command {
  let command = program;
  for (const word of words) {
    const next = command.commands.find((one) => one.name() === word);
    if (next === undefined) break;
    command = next;
  }
  return command;
}

const pathOf = (command: Command): string =>
  command.parent === null ? '' : `${pathOf(command.parent)} ${command.name()}`.trim();

const namesOf = (command: Command): readonly string[] => command.commands.map((one) => one.name());

function nearOptions(name: string, { options }: Command): readonly string[] {
  const names = options.flatMap(({ long }) => long?.slice(2) ?? []);
  return name.startsWith('--') ? nearNames(name.slice(2), names).map((one) => `--${one}`) : [];
}

/** An option before a script or the program of an image may be meant for it. */
function programOption(option: string, words: readonly string[]): string | null {
  const has = (...names: readonly string[]): boolean =>
    words.some((word) => names.includes(word.split('=', 1)[0] ?? ''));
  if (has('--image', '--build', '--entrypoint')) return 'the program of the image and its options follow --';
  const isScript = words.slice(words.indexOf(option) + 1).some((word) => !word.startsWith('-'));
  if (has('-c', '--code', '-m', '--module') || !isScript) return null;
  return `options of the script follow its name: neurovisor run FILE ${option}`;
}
