/** Tables of options: a row has the text of an option, how its value is read, and the field of a request that it sets. */
import type { Cli } from '../cli.ts';

type Env = Cli['env'];

/** Headings of the help, in its order. */
export const GROUPS = [
  'What to run:',
  'Files:',
  'What it may reach:',
  'Models:',
  'Size and time:',
  'Where it listens:',
  'How it runs:',
] as const;

/** An option as the help shows it. */
export interface OptionText {
  /** For example `-w, --workdir <dir>`. */
  readonly flags: string;
  readonly help: string;
  readonly choices?: readonly string[];
  /** The value without the option. */
  readonly fallback?: string;
  /** Several values form one list. */
  readonly isRepeatable?: boolean;
  /** Called when the command line is parsed. @throws UsageError */
  readonly check?: (text: string) => unknown;
}

/** How the value of an option becomes that of a field. All throw `UsageError`. */
type Reader<Value> =
  | { readonly parse: (text: string) => Value }
  | { readonly choices: readonly (Value & string)[] }
  /** Of a repeatable option, never without a value. */
  | { readonly parseAll: (texts: readonly string[], env: Env) => Value }
  /** An option without a value sets this one. */
  | { readonly value: Value };

/** One option for one field. */
export type Row<Request> = {
  readonly [Field in keyof Request & string]-?: Omit<OptionText, 'choices' | 'isRepeatable' | 'check'> & {
    readonly field: Field;
  } & Reader<Exclude<Request[Field], undefined>>;
}[keyof Request & string];

/** Options that are read together. */
interface Several<Request> {
  readonly options: readonly OptionText[];
  /** Omitted: a command prepares them before its request, for example an image. @throws UsageError */
  read?(flags: object, env: Env): Partial<Request>;
}

export type Field<Request> = Row<Request> | Several<Request>;

/** All options of a command that set its request, by heading. */
export type FieldGroups<Request> = Partial<Record<(typeof GROUPS)[number], readonly Field<Request>[]>>;

export function optionTexts<Request>(fields: readonly Field<Request>[]): readonly OptionText[] {
  return fields.flatMap((field: Field<Request>): readonly OptionText[] => {
    if ('options' in field) return field.options;
    if ('parseAll' in field) return [{ ...field, isRepeatable: true }];
    return ['parse' in field ? { ...field, check: field.parse } : field];
  });
}

/** The part of a request that the given options set. @param flags as commander makes them. @throws UsageError */
export function readFields<Request>(fields: readonly Field<Request>[], flags: object, env: Env = {}): Partial<Request> {
  const parts = fields.map((field: Field<Request>) => {
    if ('options' in field) return field.read?.(flags, env);
    const given = (flags as Readonly<Record<string, unknown>>)[nameOf(field.flags)];
    const isGiven = given !== undefined && !(Array.isArray(given) && given.length === 0);
    return isGiven ? setBy(field, given, env) : undefined;
  });
  return Object.assign({}, ...parts) as Partial<Request>;
}

function setBy<Request>(row: Row<Request>, given: unknown, env: Env): object | undefined {
  if ('parse' in row) return { [row.field]: row.parse(given as string) };
  if ('parseAll' in row) return { [row.field]: row.parseAll(given as readonly string[], env) };
  if ('choices' in row) return { [row.field]: given };
  // Commander's value of an absent `--no-…` is true.
  return row.value === given ? { [row.field]: given } : undefined;
}

/** The fields of a part of a request, for example of `models`; absent if no option is given. */
export function part<Request, Name extends keyof Request & string>(
  name: Name,
  fields: readonly Field<Exclude<Request[Name], undefined>>[],
): Several<Request> {
  return {
    options: optionTexts(fields),
    read: (flags, env) => {
      const read = readFields(fields, flags, env);
      return (Object.keys(read).length === 0 ? {} : { [name]: read }) as Partial<Request>;
    },
  };
}

/** `-w, --work-dir <dir>` → `workDir`, as commander names it. */
const nameOf = (flags: string): string =>
  (/--(?:no-)?([a-z-]+)/.exec(flags)?.[1] ?? '').replace(/-(.)/g, (_, letter: string) => letter.toUpperCase());
