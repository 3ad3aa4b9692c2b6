/** Reads the tools of a request of the Responses API, each as a function. Pure. */
import type { JsonObject } from '../../json-body.ts';
import type { Tool, ToolChoice, ToolForm } from '../model.ts';
import { Fault, isGiven, list, object, optionalFlag, optionalList, optionalText, shown, text } from '../read-values.ts';

/** Name of the parameter that carries the text of a custom tool. */
export const CUSTOM_INPUT = 'input';
export const LOCAL_SHELL = 'local_shell';

export interface OfferedTool {
  readonly tool: Tool;
  readonly form: ToolForm;
}

const LOCAL_SHELL_TOOL: OfferedTool = {
  tool: {
    name: LOCAL_SHELL,
    description: 'Runs a command on the machine of the user, and returns its output.',
    schema: {
      type: 'object',
      properties: {
        command: {
          type: 'array',
          items: { type: 'string' },
          description: 'The program and its arguments, e.g. ["bash", "-lc", "ls -l"].',
        },
        working_directory: { type: 'string' },
        timeout_ms: { type: 'integer' },
      },
      required: ['command'],
    },
    strict: undefined,
  },
  form: { type: 'local_shell', upstreamName: LOCAL_SHELL, name: LOCAL_SHELL },
};

/** Joins namespace and name: function names have no parts for the upstream. */
export function upstreamName(name: string, namespace: string | undefined): string {
  if (namespace === undefined) return name;
  return namespace.endsWith('__') ? namespace + name : `${namespace}__${name}`;
}

export function readTools(value: unknown): readonly OfferedTool[] {
  const offered = optionalList(value, 'tools').flatMap((one, i) => readTool(one, `tools.${i}`));
  const names = new Set(offered.map(({ tool }) => tool.name));
  if (names.size < offered.length) throw new Fault('tools', 'two have the same name');
  return offered;
}

function readTool(value: unknown, path: string): readonly OfferedTool[] {
  const tool = object(value, path);
  if (tool['type'] === 'local_shell') return [LOCAL_SHELL_TOOL];
  if (tool['type'] !== 'namespace') return [readDefinition(tool, path, undefined)];
  const namespace = text(tool['name'], `${path}.name`);
  return list(tool['tools'], `${path}.tools`).map((one, i) =>
    readDefinition(object(one, `${path}.tools.${i}`), `${path}.tools.${i}`, namespace),
  );
}

function readDefinition(tool: JsonObject, path: string, namespace: string | undefined): OfferedTool {
  const { type, parameters } = tool;
  const name = text(tool['name'], `${path}.name`);
  const description = optionalText(tool['description'], `${path}.description`);
  const full = upstreamName(name, namespace);
  const form = { upstreamName: full, name, ...(namespace === undefined ? {} : { namespace }) };
  if (type === 'function') {
    const schema = isGiven(parameters) ? object(parameters, `${path}.parameters`) : { type: 'object', properties: {} };
    const strict = optionalFlag(tool['strict'], `${path}.strict`);
    return { tool: { name: full, description, schema, strict }, form: { ...form, type } };
  }
  if (type !== 'custom') throw refusedTool(type, `${path}.type`);
  const input = { type: 'string', description: describeFormat(tool['format'], `${path}.format`) };
  const schema = { type: 'object', properties: { [CUSTOM_INPUT]: input }, required: [CUSTOM_INPUT] };
  return { tool: { name: full, description, schema, strict: undefined }, form: { ...form, type } };
}

/** Describes the grammar to the model; no server enforces it. */
function describeFormat(value: unknown, path: string): string {
  const said = 'The whole input of the tool, as text.';
  if (!isGiven(value)) return said;
  const { type, syntax, definition } = object(value, path);
  if (type !== 'grammar') return said;
  const how = text(syntax, `${path}.syntax`);
  return `${said} It follows this grammar (${how}):\n${text(definition, `${path}.definition`)}`;
}

export interface ReadChoice {
  readonly choice: ToolChoice | undefined;
  readonly tools: readonly OfferedTool[];
}

export function readChoice(value: unknown, tools: readonly OfferedTool[]): ReadChoice {
  if (!isGiven(value)) return { choice: undefined, tools };
  if (typeof value === 'string') return { choice: { type: readMode(value) }, tools };
  const choice = object(value, 'tool_choice');
  const { type } = choice;
  if (type !== 'allowed_tools') {
    return { choice: { type: 'tool', name: chosen(choice, tools, 'tool_choice').tool.name }, tools };
  }
  const mode = readMode(choice['mode']);
  const left = list(choice['tools'], 'tool_choice.tools').map((one, i) =>
    chosen(object(one, `tool_choice.tools.${i}`), tools, `tool_choice.tools.${i}`),
  );
  return { choice: { type: mode }, tools: tools.filter((tool) => left.includes(tool)) };
}

function readMode(value: unknown): 'auto' | 'any' | 'none' {
  if (value === 'auto' || value === 'none') return value;
  if (value === 'required') return 'any';
  throw new Fault('tool_choice', 'must be "auto", "none", "required", or name a tool');
}

function chosen({ type, name }: JsonObject, tools: readonly OfferedTool[], path: string): OfferedTool {
  if (type !== 'function' && type !== 'custom' && type !== 'local_shell') {
    throw refusedTool(type, `${path}.type`);
  }
  const wanted = type === 'local_shell' ? LOCAL_SHELL : text(name, `${path}.name`);
  const found = tools.find(({ form }) => form.type === type && form.name === wanted);
  if (found === undefined) throw new Fault(path, `"tools" has no ${type} ${shown(wanted)}`);
  return found;
}

function refusedTool(type: unknown, path: string): Fault {
  const why =
    `the type ${shown(type)} is refused: OpenAI's servers run such tools or know their form. ` +
    'Run the tool in the sandbox and offer it as type "function"';
  return new Fault(path, why, 'provider_tool_refused');
}
