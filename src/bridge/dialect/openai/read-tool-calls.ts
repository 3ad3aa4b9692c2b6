/**
 * Joins the deltas of tool calls, which servers number, name and cut differently, into one whole call after another.
 * Performs no I/O.
 */
import { BridgeError } from '../../errors.ts';
import { isJsonObject, type JsonObject, parseObject } from '../../json-body.ts';
import type { AnswerEvent } from '../model.ts';

/** In one answer; more are `upstream_protocol`. */
export const TOOL_CALLS_MAX = 1000;
/** Characters of one call's arguments; more are `upstream_protocol`. */
export const ARGUMENTS_CHARACTERS_MAX = 4 * 1024 * 1024;
const ID_CHARACTERS_MAX = 256;
const NAME_CHARACTERS_MAX = 256;

interface OpenCall {
  readonly index: number | undefined;
  id: string | undefined;
  name: string | undefined;
  /** The arguments so far, in pieces. */
  readonly pieces: string[];
  length: number;
  /** Arguments not passed on yet. */
  held: string;
  started: boolean;
  /** The arguments begin like an object. */
  isObject: boolean;
}

export class ToolCallReader {
  readonly #emit: (event: AnswerEvent) => void;
  readonly #ids = new Set<string>();
  readonly #indexes = new Set<number>();
  #open: OpenCall | undefined;
  #count = 0;

  constructor(emit: (event: AnswerEvent) => void) {
    this.#emit = emit;
  }

  /** Calls begun. */
  get count(): number {
    return this.#count;
  }

  /** @throws BridgeError `upstream_protocol` */
  read(delta: JsonObject): void {
    const fn = isJsonObject(delta['function']) ? delta['function'] : {};
    const index = Number.isSafeInteger(delta['index']) ? Number(delta['index']) : undefined;
    const id = textOf(delta['id'], ID_CHARACTERS_MAX);
    const name = textOf(fn['name'], NAME_CHARACTERS_MAX);
    const call =
      this.#open !== undefined && !isNext(this.#open, { index, id, name })
        ? this.#open
        : this.#begin(index, id, name);
    if (call === undefined) return;
    call.id ??= id;
    call.name ??= name;
    const { arguments: text } = fn;
    // Some servers send the object itself.
    const piece = isJsonObject(text) ? JSON.stringify(text) : typeof text === 'string' ? text : '';
    call.pieces.push(piece);
    call.length += piece.length;
    call.held += piece;
    if (call.length > ARGUMENTS_CHARACTERS_MAX) throw broken('a tool call is too long');
    this.#send(call);
  }

  /**
   * Ends the open call, if any.
   * @param isCut the answer was cut off, maybe within the arguments
   * @throws BridgeError `upstream_protocol`
   */
  end(isCut: boolean): void {
    const call = this.#open;
    this.#open = undefined;
    if (call === undefined) return;
    if (!call.started) throw broken('a tool call has no name');
    const text = call.pieces.join('').trim();
    if (text === '' || text === 'null') this.#emit({ type: 'tool-arguments', text: '{}' });
    else if (!(isCut && call.isObject) && parseObject(text) === undefined) {
      throw broken('the arguments of a tool call are not a JSON object');
    } else this.#pass(call, '');
    this.#emit({ type: 'tool-end' });
  }

  #begin(
    index: number | undefined,
    id: string | undefined,
    name: string | undefined,
  ): OpenCall | undefined {
    if (index !== undefined && this.#indexes.has(index) && name === undefined) {
      throw broken('parts of a tool call came after its end');
    }
    this.end(false);
    this.#count += 1;
    if (this.#count > TOOL_CALLS_MAX) throw broken('there are too many tool calls');
    if (index !== undefined) this.#indexes.add(index);
    this.#open = {
      index,
      id,
      name,
      pieces: [],
      length: 0,
      held: '',
      started: false,
      isObject: false,
    };
    return this.#open;
  }

  #send(call: OpenCall): void {
    if (call.name === undefined) return;
    if (!call.started) {
      call.started = true;
      this.#emit({ type: 'tool-start', id: this.#unique(call.id), name: call.name });
    }
    // What is no object may still turn out empty, and is sent at the end.
    call.isObject ||= call.held.trimStart().startsWith('{');
    if (!call.isObject) return;
    const last = call.held.charCodeAt(call.held.length - 1);
    this.#pass(call, last >= 0xd800 && last <= 0xdbff ? call.held.slice(-1) : '');
  }

  /** Passes on what is held but `rest`. */
  #pass(call: OpenCall, rest: string): void {
    const text = call.held.slice(0, call.held.length - rest.length);
    call.held = rest;
    if (text !== '') this.#emit({ type: 'tool-arguments', text: text.toWellFormed() });
  }

  /** Clients tell results by the id, so it must be there and occur once. */
  #unique(given: string | undefined): string {
    let id = given ?? `call_${this.#count}`;
    for (let n = 2; this.#ids.has(id); n += 1) id = `${given ?? 'call'}_${n}`;
    this.#ids.add(id);
    return id;
  }
}

/** True for the first delta of another call. */
function isNext(
  open: OpenCall,
  delta: {
    readonly index: number | undefined;
    readonly id: string | undefined;
    readonly name: string | undefined;
  },
): boolean {
  if (delta.index !== undefined && open.index !== undefined && delta.index !== open.index) {
    return true;
  }
  if (delta.name === undefined || open.name === undefined) return false;
  // Without an index a name begins a call; with one, servers repeat names, and some number all calls 0.
  if (delta.index === undefined) return true;
  return delta.id !== undefined && delta.id !== open.id && open.length > 0;
}

function textOf(value: unknown, charactersMax: number): string | undefined {
  if (typeof value !== 'string' || value === '') return undefined;
  if (value.length > charactersMax) throw broken('a tool call has too long an id or name');
  return value.toWellFormed();
}

function broken(why: string): BridgeError {
  return new BridgeError('upstream_protocol', why);
}
