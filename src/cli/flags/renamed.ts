/** Names of the command line before 0.2.0, so that an error about one says what to write now. */

const OPTIONS: Readonly<Record<string, string>> = {
  '--cwd': 'use --workdir (-w)',
  '--no-template': 'use --boot',
  '--budget': 'use --model-budget',
  '--tokens-per-minute': 'use --model-budget rate=N',
  '--tag': 'use --name (-t)',
  '--no-follow': 'omit it: events ends by itself, and -f follows',
  '--build-arg': 'use neurovisor image build -t NAME --build-arg …, then --image NAME',
  '--target': 'use neurovisor image build -t NAME --target …, then --image NAME',
  '--endpoint': 'use ./neurovisor prove-endpoint in a checkout',
};

const COMMANDS: Readonly<Record<string, string>> = {
  build: 'use neurovisor template create, and neurovisor image build for a Dockerfile',
  revoke: 'use neurovisor key rm',
  show: 'use inspect',
  doctor: 'use neurovisor doctor --network',
  seccomp: 'use ./neurovisor seccomp in a checkout',
};

/** @param message of commander. @returns what to write instead; null: the name was never known */
export function renamedTo(message: string): string | null {
  const [, kind, name = ''] = /unknown (option|command) '([^']*)'/.exec(message) ?? [];
  const names = kind === 'option' ? OPTIONS : COMMANDS;
  return Object.hasOwn(names, name) ? (names[name] ?? null) : null;
}
