/**
 * Makes a stage from the steps of E2B's template builders instead of a Dockerfile. Line numbers are those of steps,
 * from 1; 0 is the work before the first. Pure.
 *
 * As at E2B, a login shell runs the steps as `user` in its home unless they say otherwise. The current user owns what
 * COPY and WORKDIR create. Missing users are created.
 */
import { hasWildcard } from '../../base/text/glob.ts';
import type { StepArchive, TemplateStep } from '../../sandbox/contract/template-step.ts';
import type { Instruction } from './parse.ts';
import type { Source, StageGraph } from './stages.ts';

/** Omits the archive's path, which does not affect the result. */
export type MadeStep = TemplateStep<Pick<StepArchive, 'sha256'>>;

export interface MadeBase {
  readonly source: Source;
  /**
   * `image`: a stranger's, so the user is created. `environment`: ours, which has the user. `template`: the result of
   * another build, which continues as `user`.
   */
  readonly kind: 'image' | 'environment' | 'template';
  /** Empty for root. */
  readonly user: string;
}

const DEFAULT_USER = 'user';
const DEFAULT_WORKDIR = '/home/user';

export function madeStage(base: MadeBase, steps: readonly MadeStep[], nonce: () => string): StageGraph {
  const maker = new Maker(base.kind === 'template' ? base.user || 'root' : null, nonce);
  if (base.kind === 'image') maker.makeUser(DEFAULT_USER, true);
  if (base.kind === 'image') maker.run('root', INSTALL_SUDO);
  if (base.kind !== 'template') maker.begin(DEFAULT_USER, DEFAULT_WORKDIR);
  for (const [index, step] of steps.entries()) maker.step(index + 1, step);
  const { instructions } = maker;
  const stage = { index: 0, name: 'builder', line: 0, base: base.source, instructions };
  return { escapeMark: '\\', globals: {}, stages: [stage] };
}

class Maker {
  readonly instructions: Instruction[] = [];
  readonly #nonce: () => string;
  /** `null` for the image's user, which is unknown. */
  #user: string | null;
  #line = 0;

  constructor(user: string | null, nonce: () => string) {
    this.#user = user;
    this.#nonce = nonce;
    this.#add('SHELL', JSON.stringify(['/bin/sh', '-c', SHELL]));
  }

  begin(user: string, workdir: string): void {
    this.#become(user);
    this.#add('WORKDIR', quoted(workdir));
  }

  step(line: number, step: MadeStep): void {
    this.#line = line;
    if (step.isFresh) this.run('root', `: ${this.#nonce()}`);
    if (step.kind === 'run') this.run(step.user ?? this.#owner, step.command);
    else if (step.kind === 'env') {
      // One by one, since a value may refer to a previous variable.
      for (const [name, value] of step.pairs) this.#add('ENV', `${name}=${quoted(value)}`);
    } else if (step.kind === 'workdir') this.#workdir(step.path);
    else if (step.kind === 'user') {
      this.makeUser(step.user, step.isSudoer);
      this.#become(step.user);
    } else this.#copy(step);
  }

  /** Creates a missing user. Ignores numbers. */
  makeUser(text: string, isSudoer: boolean): void {
    const name = text.split(':', 1)[0] ?? '';
    if (/^\d+$/.test(name) || name === 'root') return;
    const sudo = isSudoer ? `\n${MAKE_SUDOER}` : '';
    this.run('root', `name=${shellQuoted(name)}\n${MAKE_USER}${sudo}`);
  }

  run(user: string, command: string): void {
    const before = this.#user;
    this.#become(user);
    // A heredoc, so that no command is taken for a list of words or a file with an interpreter.
    const content = command.startsWith('#!') ? ` ${command}` : command;
    const heredocs = [{ name: 'RUN', expands: false, content }];
    this.#push({ keyword: 'RUN', rest: '<<RUN', script: content, heredocs });
    if (before !== null) this.#become(before);
  }

  #copy({ archive, source, target, owner, mode }: Extract<MadeStep, { kind: 'copy' }>): void {
    const { path, isDirectory } = literalPart(source);
    const flags = [{ name: 'chown', value: owner ?? this.#owner }];
    if (mode !== null) flags.push({ name: 'chmod', value: mode });
    // For several files, the destination is a directory.
    const to = isDirectory && !target.endsWith('/') ? `${target}/` : target;
    const rest = JSON.stringify([quoted(path === '' ? '.' : path), quoted(to)]);
    this.#push({ keyword: 'COPY', flags, rest, archive: archive.sha256 });
  }

  #workdir(path: string): void {
    const named = `dir="${path.replaceAll(/["\\`]/g, '\\$&')}"`;
    // With the user's own group.
    const owner = shellQuoted(/^\d+$|:/.test(this.#owner) ? this.#owner : `${this.#owner}:`);
    this.run('root', `${named}\n[ -d "$dir" ] || { mkdir -p "$dir" && chown ${owner} "$dir"; }`);
    this.#add('WORKDIR', quoted(path));
  }

  get #owner(): string {
    return this.#user ?? 'root';
  }

  #become(user: string): void {
    if (user === this.#user) return;
    this.#user = user;
    this.#add('USER', user.replaceAll('$', '\\$'));
  }

  #add(keyword: string, rest: string): void {
    this.#push({ keyword, rest });
  }

  #push(one: Pick<Instruction, 'keyword' | 'rest'> & Partial<Instruction>): void {
    this.instructions.push({ line: this.#line, flags: [], script: one.rest, heredocs: [], ...one });
  }
}

/** Quotes a value so that only variables in it are replaced. */
const quoted = (text: string): string => `"${text.replaceAll(/["\\]/g, '\\$&')}"`;
const shellQuoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

function literalPart(source: string): { readonly path: string; readonly isDirectory: boolean } {
  const parts = source.split('/').filter((part) => part !== '' && part !== '.');
  const at = parts.findIndex((part) => hasWildcard(part) || /[{}()!]/.test(part));
  if (at < 0) return { path: parts.join('/'), isDirectory: false };
  return { path: parts.slice(0, at).join('/'), isDirectory: true };
}

/**
 * A login shell, which reads what installers write into profiles. Those of most images reset PATH, so the environment's
 * is put in front. `$0` is the command.
 */
const SHELL = `shell=$(command -v bash || echo /bin/sh)
STEP_PATH=$PATH exec "$shell" -l -c 'PATH=$STEP_PATH:$PATH; export PATH; unset STEP_PATH; eval "shift
$1"' "$shell" "$0"`;

export const loginCommand = (command: string): string => `sh -c ${shellQuoted(SHELL)} ${shellQuoted(command)}`;

const MAKE_USER = `if ! id -u "$name" >/dev/null 2>&1; then
  if command -v useradd >/dev/null 2>&1; then
    useradd -m -U -s "$(command -v bash || echo /bin/sh)" "$name"
  elif command -v adduser >/dev/null 2>&1; then
    adduser -D "$name"
  else
    echo "$name:x:1000:1000::/home/$name:/bin/sh" >>/etc/passwd
    echo "$name:x:1000:" >>/etc/group
    mkdir -p "/home/$name" && chown 1000:1000 "/home/$name"
  fi || { echo "the user $name could not be made" >&2; exit 1; }
fi`;
const MAKE_SUDOER = `mkdir -p /etc/sudoers.d
echo "$name ALL=(ALL:ALL) NOPASSWD: ALL" >"/etc/sudoers.d/$name"
chmod 0440 "/etc/sudoers.d/$name"`;
/** Uses the package gateway. Most images have no sudo, and most steps written for E2B use it. */
const INSTALL_SUDO = `if ! command -v sudo >/dev/null 2>&1; then
  if command -v apt-get >/dev/null 2>&1 && {
    apt-get update && apt-get install -y --no-install-recommends -o Dpkg::Options::=--force-confold sudo
  } >/tmp/sudo.log 2>&1; then
    rm -rf /var/lib/apt/lists/*
  else
    echo 'this image has no sudo, and it could not be installed: steps that use it will fail' >&2
  fi
  rm -f /tmp/sudo.log
fi`;
