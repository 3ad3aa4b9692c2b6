/** Options that several commands share. */
import { type Command, Option } from 'commander';
import { JAIL_MODES } from '../../base/config.ts';
import { type Field, type FieldGroups, type OptionText, optionTexts } from '../flags/field.ts';

/** Without a default, an option that is not given stays undefined. */
export const collect = (value: string, previous: readonly string[] = []): string[] => [...previous, value];

export function optionOf({ flags, help, choices, fallback, isRepeatable, check }: OptionText): Option {
  const option = new Option(flags, help);
  if (choices !== undefined) option.choices(choices);
  if (fallback !== undefined) option.default(fallback);
  if (isRepeatable === true) return option.default([]).argParser(collect);
  if (check === undefined) return option;
  // Read again with the whole request.
  return option.argParser((text) => {
    check(text);
    return text;
  });
}

export function addFields<Request>(command: Command, fields: readonly Field<Request>[]): Command {
  for (const text of optionTexts(fields)) command.addOption(optionOf(text));
  return command;
}

export function addFieldGroups<Request>(command: Command, groups: FieldGroups<Request>): Command {
  for (const [heading, fields] of Object.entries(groups)) addFields(command.optionsGroup(heading), fields);
  return command;
}

/** `--model-budget` of a tenant or the host. */
export const modelBudgetOption = (): Option =>
  new Option(
    '--model-budget <limits>',
    'what its sandboxes together may use of the models, for example output=5M,requests=20000,cost=20,per=1d (cost in ' +
      'dollars), or none; replaces all of it (repeatable)',
  ).argParser(collect);

/** The argument of commands for one sandbox. */
export const SANDBOX = ['<id>', 'sandbox name, ID, or a unique prefix of the ID'] as const;

export const output = (): Option =>
  new Option('-o, --output <format>', 'output format: text or json (default: text)').choices(['text', 'json']);

/** The subcommand `ls` of a group, which the group runs without a word. Another word is an unknown command, not an argument of `ls`. */
export const listCommand = (group: Command): Command =>
  group
    .command('ls', { isDefault: true })
    .allowExcessArguments()
    .hook('preAction', (ls) => {
      const [word] = ls.args;
      if (word === undefined) return;
      const isNamed = group.args[0] === 'ls';
      const message = isNamed ? `unexpected argument '${word}'` : `unknown command '${word}'`;
      ls.error(`error: ${message}`);
    });

/** `--jail` */
export const jailOption = (): Option =>
  new Option(
    '--jail <mode>',
    'jail of the VMMs: auto (limits only where the host has control groups), enforce (all of it, or no VM starts), log (allow forbidden system calls and log them) or off (default: auto)',
  ).choices(JAIL_MODES);

export const recordOption = (): Option =>
  new Option(
    '--record <file>',
    'record all requests to models and their answers in this file, which is replaced if it is a cassette',
  );

export const replayOption = (): Option =>
  new Option('--replay <file>', 'answer all requests to models from this cassette; no model is asked');

export function cardOption(): Option {
  return new Option(
    '--card',
    'with Firecracker: for sandboxes with a network, since it adds no network card to a clone',
  );
}

/** `-w`, `--workdir` */
export const WORKDIR = [
  '-w, --workdir <dir>',
  'working directory in the guest (default: home of the guest user)',
] as const;

/** `--vmm` */
export function vmmOption(): Option {
  return new Option(
    '--vmm <name>',
    'VMM that runs the microVM: auto (Firecracker with KVM and where it is installed, otherwise QEMU), firecracker or qemu (default: auto)',
  ).choices(['auto', 'firecracker', 'qemu']);
}

/** Follows the options in the help of the same commands. */
export const NETWORK_HELP = `
Network modes:
  none     no network; models stay reachable
  egress   only what --allow-out lists
  open     the internet, except what --deny-out lists
Metadata services and private addresses are blocked in every mode; --allow-out with a block inside a private
range opens that block. A network needs root: run the daemon as root, or this command if there is no daemon.

Rules match a name, an address or a block, with an optional :port, :first-last, /tcp or /udp:
  pypi.org   *.example.com   192.0.2.7   192.0.2.0/24:443   192.0.2.1:53/udp   db.example.com:5432
A name without a port means TCP ports 80 and 443. To match single requests by method and path (and the paths below it):
  'GET,HEAD https://api.example.com/v1/'   https://api.example.com/v1/chat   'WEBSOCKET https://*.example.com/live'
For these names only, the host decrypts TLS, with a certificate that the guest trusts.

Network limits:
  bytes=SIZE         total bytes, both directions, for the life of the sandbox; then connections are reset
  up=RATE down=RATE  bytes per second from and to the guest
  connections=N      concurrent connections
  NAME=SIZE          total bytes with one name (*.NAME: all names below it) on ports 80 and 443

Secrets:
  --secret NAME@api.example.com            the value of NAME in this environment, or else
                                           the stored secret (neurovisor secret)
  --secret NAME@a.example,b.example        the same, for several hosts
  --secret NAME@api.example.com=FILE       the content of a file
  --secret NAME@api.example.com:header=X-My-Key,query=key
                                           in this header field or query parameter only
In the guest, NAME holds a placeholder. The host replaces it with the value in HTTPS requests to that host: without a
place, in credential fields such as Authorization and X-Api-Key. A placeholder elsewhere, or another credential in
the same request, is refused with 403.
--secret also allows its host. Without --net and rules, nothing else is allowed.
`;
