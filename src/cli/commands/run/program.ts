/** The program of `neurovisor run --image IMAGE [-- PROGRAM]`, or `--build DIR`, chosen as `docker run` does. */
import { ignore } from '../../../base/ignore.ts';
import { plain } from '../../../base/text/plain.ts';
import type { SignalName } from '../../../machine/guest/guest.ts';
import type { ImageInfo } from '../../../sandbox/contract/environment.ts';
import { UsageError } from '../../failure.ts';

/** What the command line says of it. */
export interface Program {
  /** After `--`; empty: what the image names. */
  readonly words: readonly string[];
  /** Instead of the image's entrypoint, and of its command; empty: no entrypoint. Undefined: the image's. */
  readonly entrypoint: string | undefined;
  /** That names the image, such as `--image X`; undefined: a template does. */
  readonly option?: string | undefined;
}

/**
 * The entrypoint, then the words; without words, the command of the image.
 * @throws UsageError: neither the image nor the command line names a program
 */
export function argvOf({ words, entrypoint, option }: Program, image: ImageInfo | null): readonly string[] {
  const { entrypoint: its = [], cmd = [], name = 'the image' } = image ?? {};
  const first = entrypoint === undefined ? its : entrypoint === '' ? [] : [entrypoint];
  const rest = words.length > 0 || entrypoint !== undefined ? words : cmd;
  const argv = [...first, ...rest];
  if (argv.length > 0) return argv;
  throw new UsageError(
    `${plain(name)} names no program to run`,
    `name one: neurovisor run ${plain(option ?? `--image ${name}`)} -- PROGRAM [ARGS]`,
  );
}

/** The image's, where it names one as the guest does; Docker also takes numbers and real-time signals. */
export function stopSignalOf(image: ImageInfo | null): { readonly stopSignal?: SignalName } {
  const name = image?.stopSignal ?? null;
  const whole = name?.startsWith('SIG') === false ? `SIG${name}` : name;
  return isSignalName(whole) ? { stopSignal: whole } : {};
}

function isSignalName(name: string | null): name is SignalName {
  return name !== null && Object.hasOwn(STOP_SIGNALS, name);
}

const STOP_SIGNALS: Readonly<Record<SignalName, true>> = {
  SIGHUP: true,
  SIGINT: true,
  SIGQUIT: true,
  SIGKILL: true,
  SIGUSR1: true,
  SIGUSR2: true,
  SIGTERM: true,
  SIGCONT: true,
  SIGSTOP: true,
  SIGTSTP: true,
  SIGWINCH: true,
};

/**
 * Whether the command line names a program of the image, or leaves it to the image, rather than a script.
 * @param operands all that are no options
 * @param raw the command line
 */
export function namesProgram(operands: readonly string[], raw: readonly string[]): boolean {
  const dashes = raw.indexOf('--');
  const after = dashes < 0 ? 0 : raw.length - dashes - 1;
  return operands.length === after;
}

/**
 * Whether the named template is of an image, whose programs then run without --image.
 * @returns false for none, and for one that is unknown or damaged: its start says so
 */
export async function isOfImage(home: string, template: string | boolean = false): Promise<boolean> {
  if (typeof template !== 'string') return false;
  const { TemplateNames } = await import('../../../host/runtime/named-templates/names.ts');
  try {
    return (await new TemplateNames(home).get(template)).spec.environment !== undefined;
  } catch (error) {
    ignore(error, 'the start reports it');
    return false;
  }
}
